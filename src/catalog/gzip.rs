//! A gzipped file inflated in one step, which is faster than piece by piece (`cargo bench --bench read`), where that is sure
//! to give the same bytes.
//!
//! libdeflate inflates one member and does not tell where it ends, and after it there may be more: another member, or what is
//! no gzip at all. So only such a file is inflated thus whose last eight bytes, with which its member must end, stand nowhere
//! else in it. See RFC 1952, section 2.

use libdeflater::{Decompressor, crc32};

/// The shortest beginning and the end of a member.
const MEMBER_BYTES_MIN: usize = 18;
/// With which a member ends: a checksum and the length of what it inflates to.
const END_BYTES: usize = 8;
/// Of the flags in a member's beginning: that it is text, and that it has a name. Of the others libdeflate does not check all.
const PLAIN_FLAGS: u8 = 0b0000_1001;

/// The inflated file, where `has_room` for as many bytes as its end says; None where only inflating it piece by piece tells what
/// it holds, or what is wrong with it.
pub(super) fn inflate(stored: &[u8], has_room: impl FnOnce(u64) -> bool) -> Option<Vec<u8>> {
    let (_, end) = stored.split_last_chunk::<END_BYTES>().filter(|_| stored.len() >= MEMBER_BYTES_MIN)?;
    let is_plain = stored[3] & !PLAIN_FLAGS == 0;
    if !is_plain || memchr::memmem::find(stored, end) != Some(stored.len() - END_BYTES) {
        return None;
    }
    let [a, b, c, d, length @ ..] = *end;
    let (checksum, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(length));
    let mut inflated = vec![0; usize::try_from(length).ok().filter(|_| has_room(length.into()))?];
    let told = Decompressor::new().gzip_decompress(stored, &mut inflated).ok()?;
    (told == inflated.len() && crc32(&inflated) == checksum).then_some(inflated)
}

#[cfg(test)]
mod tests {
    use super::inflate;
    use crate::catalog::samples::gzip;

    #[test]
    fn a_file_of_one_member_is_inflated_if_there_is_room() {
        let given = b"one, two, three, one, two, three";
        let told = |stored: &[u8]| inflate(stored, |length| length == given.len() as u64);
        assert_eq!(told(&gzip(given)).as_deref(), Some(&given[..]));
        assert_eq!(inflate(&gzip(given), |_| false), None);
    }

    #[test]
    fn what_may_be_more_than_one_member_or_none_is_left_to_another_way() {
        let (one, other) = (gzip(b"one"), gzip(b"other"));
        let mut damaged = one.clone();
        damaged[11] ^= 1;
        let end = &one[one.len() - 8..];
        for stored in [
            [&one[..], &other].concat(),
            [&one[..], &one].concat(),
            [&one[..], b"garbage", end].concat(),
            [&one[..], b"garbage"].concat(),
            one[..one.len() - 1].to_vec(),
            damaged,
            Vec::new(),
        ] {
            assert_eq!(inflate(&stored, |_| true), None, "{stored:?}");
        }
    }
}

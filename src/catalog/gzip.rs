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

/// To how many bytes the file inflates, as its end says; None where only inflating it piece by piece tells.
pub(super) fn inflated_length(stored: &[u8]) -> Option<usize> {
    let (end, _, length) = end(stored)?;
    let is_plain = stored[3] & !PLAIN_FLAGS == 0;
    let is_one = memchr::memmem::find(stored, &end) == Some(stored.len() - END_BYTES);
    (is_plain && is_one).then_some(length)
}

/// The inflated file, of the length that [`inflated_length`] told. None where it is not that: inflating it piece by piece
/// tells what is wrong.
pub(super) fn inflate(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut inflated = vec![0; length];
    let told = Decompressor::new().gzip_decompress(stored, &mut inflated).ok()?;
    let (_, checksum, _) = end(stored)?;
    (told == length && crc32(&inflated) == checksum).then_some(inflated)
}

/// A member's end, and the checksum and the length in it.
fn end(stored: &[u8]) -> Option<([u8; END_BYTES], u32, usize)> {
    let (_, end) = stored.split_last_chunk::<END_BYTES>().filter(|_| stored.len() >= MEMBER_BYTES_MIN)?;
    let [a, b, c, d, length @ ..] = *end;
    Some((*end, u32::from_le_bytes([a, b, c, d]), usize::try_from(u32::from_le_bytes(length)).ok()?))
}

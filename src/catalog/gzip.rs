//! A gzipped file inflated in one step, which is faster than piece by piece (`cargo bench --bench read`), where that is sure
//! to give the same.
//!
//! libdeflate inflates one member and does not tell where it ends, and a gzipped file may have several. So only a file is
//! inflated thus that has no place where a second could begin, and that ends as its member must. See RFC 1952, section 2.

use libdeflater::{Decompressor, crc32};

/// With which a member begins: its mark, and the only way of compressing there is.
const BEGINNING: [u8; 3] = [0x1f, 0x8b, 8];
/// The shortest beginning and the end of a member.
const MEMBER_BYTES_MIN: usize = 18;

/// To how many bytes the file inflates, as its end says; None where it may have several members, or is none.
pub(super) fn inflated_length(stored: &[u8]) -> Option<usize> {
    let (_, length) = end(stored)?;
    let has_one = stored.starts_with(&BEGINNING) && memchr::memmem::find(&stored[1..], &BEGINNING).is_none();
    has_one.then_some(length)
}

/// The inflated file, of the length that [`inflated_length`] told. None where it is not that: then it has to be inflated
/// piece by piece, which tells what is wrong.
pub(super) fn inflate(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut inflated = vec![0; length];
    let told = Decompressor::new().gzip_decompress(stored, &mut inflated).ok()?;
    let (checksum, _) = end(stored)?;
    (told == length && crc32(&inflated) == checksum).then_some(inflated)
}

/// A member's end: the checksum and the length of what it inflates to.
fn end(stored: &[u8]) -> Option<(u32, usize)> {
    let (_, end) = stored.split_last_chunk::<8>().filter(|_| stored.len() >= MEMBER_BYTES_MIN)?;
    let [a, b, c, d, length @ ..] = *end;
    Some((u32::from_le_bytes([a, b, c, d]), usize::try_from(u32::from_le_bytes(length)).ok()?))
}

//! Inflating: every byte or an error, within bounds that are given back.

use parquet::arrow::async_reader::AsyncFileReader;

use crate::catalog::content::Content;
use crate::catalog::inflate::{Intake, Staging, StagingLimits};
use crate::catalog::samples::{ROOMY, gzip};
use crate::error::{Kind, Result};
use crate::trial::dice::Dice;

async fn take_in(staging: &Staging, stored: &[u8], gzip: bool, piece: usize) -> Result<Content> {
    let mut intake: Intake = staging.intake(gzip, stored.len() as u64);
    stored.chunks(piece).try_for_each(|chunk| intake.push(chunk))?;
    intake.finish().await
}

async fn bytes_of(content: &mut Content) -> Vec<u8> {
    let end = content.len();
    content.get_bytes(0..end).await.unwrap().to_vec()
}

/// Spaces in which a file is inflated in one step, piece by piece, and the one or the other.
fn spaces(limits: StagingLimits) -> [Staging; 3] {
    [1 << 30, 0, 3_000].map(|whole_bytes_max| Staging::new(StagingLimits { whole_bytes_max, ..limits.clone() }))
}

fn is_staged(content: &Content) -> bool {
    matches!(content, Content::Staged(_))
}

/// Bytes that do not compress to nothing.
fn noise(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(7);
    (0..len).map(|_| u8::try_from(dice.below(256)).unwrap()).collect()
}

async fn check(limits: StagingLimits, given: &[u8], staged: bool) {
    let packed = gzip(given);
    for staging in spaces(limits) {
        for piece in [1, 7, 1 << 20] {
            for (stored, is_gzip) in [(packed.as_slice(), true), (given, false)] {
                let mut content = take_in(&staging, stored, is_gzip, piece).await.unwrap();
                assert_eq!(is_staged(&content), staged, "pieces of {piece}, gzip {is_gzip}");
                assert!(bytes_of(&mut content).await == given, "pieces of {piece}, gzip {is_gzip}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_stays_in_memory_up_to_the_limit_and_goes_to_a_staging_file_above_it() {
    let limits = StagingLimits { file_memory_bytes_max: 1_000, ..ROOMY };
    check(limits.clone(), &noise(999), false).await;
    check(limits.clone(), &noise(1_000), false).await;
    check(limits.clone(), &noise(1_001), true).await;
    check(limits, &noise(70_000), true).await;
    check(ROOMY, b"", false).await;
}

#[tokio::test]
async fn memory_is_shared_by_all_files_and_given_back_when_one_is_dropped() {
    let file = gzip(&noise(600));
    for staging in spaces(StagingLimits { memory_bytes_max: 1_000, ..ROOMY }) {
        let first = take_in(&staging, &file, true, 100).await.unwrap();
        let second = take_in(&staging, &file, true, 100).await.unwrap();
        assert_eq!((is_staged(&first), is_staged(&second)), (false, true));
        let clone = first.clone();
        drop(first);
        assert!(is_staged(&take_in(&staging, &file, true, 100).await.unwrap()), "a clone still holds the memory");
        drop(clone);
        assert!(!is_staged(&take_in(&staging, &file, true, 100).await.unwrap()));
    }
}

#[tokio::test]
async fn staging_files_are_bounded_together_and_vanish_with_their_last_reader() {
    let folder = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let limits = StagingLimits {
        file_memory_bytes_max: 10,
        staged_bytes_max: 1_000,
        folder: Some(folder.path().to_owned()),
        ..ROOMY
    };
    let staging = Staging::new(limits);
    let file = noise(600);
    let first = take_in(&staging, &file, false, 100).await.unwrap();
    assert_eq!(files(), 1);
    let refused = take_in(&staging, &file, false, 100).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Retry, "there may be room later: {refused}");
    assert_eq!(files(), 1, "what was refused leaves no file behind");
    drop(first);
    assert_eq!(files(), 0);
    take_in(&staging, &file, false, 100).await.unwrap();
}

#[tokio::test]
async fn a_bomb_is_refused_at_the_limit_and_holds_nothing_afterwards() {
    let bomb = gzip(&vec![0; 50 << 20]);
    assert!(bomb.len() < 1 << 20);
    let limits = StagingLimits { file_bytes_max: 1 << 20, memory_bytes_max: 1 << 20, ..ROOMY };
    for staging in spaces(StagingLimits { staged_bytes_max: 0, ..limits }) {
        for _ in 0..3 {
            let refused = take_in(&staging, &bomb, true, 4_096).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Data);
            assert!(refused.message().contains("more than 1048576 bytes"), "{refused}");
        }
        assert!(
            !is_staged(&take_in(&staging, &vec![1; 1 << 20], false, 4_096).await.unwrap()),
            "all memory is free again"
        );
    }
}

#[tokio::test]
async fn what_is_inflated_in_one_step_is_counted_and_given_back() {
    let file = gzip(&noise(600));
    let stored = file.len() as u64;
    let staging = Staging::new(StagingLimits { whole_bytes_max: 4 * stored, ..ROOMY });
    let mut others: Vec<Intake> = (0..6).map(|_| staging.intake(true, stored)).collect();
    // Two of them have room as they are stored; each of those has room as it is inflated, after the other.
    assert_eq!(staging.held_whole(), 2 * stored);
    for other in &mut others {
        other.push(&file).unwrap();
    }
    for other in others {
        assert_eq!(other.finish().await.unwrap().len(), 600);
    }
    assert_eq!(staging.held_whole(), 0);
}

#[tokio::test]
async fn a_store_that_sends_more_than_it_said_is_asked_again() {
    let mut intake = Staging::new(ROOMY).intake(true, 10);
    assert_eq!(intake.push(&gzip(b"whole")).unwrap_err().kind(), Kind::Retry);
}

#[tokio::test]
async fn concatenated_members_are_one_file() {
    // Equal members end alike, so that only their beginnings tell that there are two.
    for members in [vec!["one,", "", "two"], vec!["same", "same"], vec!["", ""]] {
        let packed = members.iter().map(|member| gzip(member.as_bytes())).collect::<Vec<_>>().concat();
        for staging in spaces(ROOMY) {
            for piece in [1, 3, 1_000] {
                let mut content = take_in(&staging, &packed, true, piece).await.unwrap();
                assert_eq!(bytes_of(&mut content).await, members.concat().as_bytes());
            }
        }
    }
}

#[tokio::test]
async fn the_mark_of_a_member_inside_of_one_begins_no_other() {
    let given = [&b"\x1f\x8b\x08\x00".repeat(3)[..], &noise(500)].concat();
    // Stored as it is, so that the mark is in the file as well.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut encoder, &given).unwrap();
    let packed = encoder.finish().unwrap();
    for staging in spaces(ROOMY) {
        assert!(bytes_of(&mut take_in(&staging, &packed, true, 64).await.unwrap()).await == given);
    }
}

#[tokio::test]
async fn a_gzip_stream_cut_off_anywhere_is_never_taken_for_whole() {
    let packed = gzip(&noise(300));
    for staging in spaces(ROOMY) {
        for len in 0..packed.len() {
            let cut = take_in(&staging, &packed[..len], true, 64).await;
            assert_eq!(cut.err().map(|error| error.kind()), Some(Kind::Data), "cut to {len} of {}", packed.len());
        }
    }
}

#[tokio::test]
async fn damaged_bytes_and_other_formats_are_data_errors() {
    let whole = gzip(&noise(300));
    let damaged = (0..whole.len()).filter(|at| !(3..10).contains(at)).map(|at| {
        // Not of whether it is a text, the time and the system, of which nothing else tells.
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        damaged
    });
    // What comes after a member ends as one does, so that its end says nothing.
    let (empty, end) = (gzip(b""), &whole[whole.len() - 8..]);
    let others = [
        b"PAR1 is no gzip".to_vec(),
        b"\x1f\x8b".to_vec(),
        [&whole[..], b"garbage"].concat(),
        [&whole[..], b"garbage", end].concat(),
        [&whole[..], &[0], &whole[1..]].concat(),
        [&empty[..], &[0; 8]].concat(),
        // A checksum of its beginning, which is wrong.
        [&whole[..3], &[2], &whole[4..10], b"\xde\xad", &whole[10..]].concat(),
    ];
    let all: Vec<Vec<u8>> = damaged.chain(others).collect();
    for staging in spaces(ROOMY) {
        for bytes in &all {
            let error = take_in(&staging, bytes, true, 64).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Data, "{error}");
            assert!(error.hint_text().unwrap().contains("gz"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_and_may_be_tried_again() {
    let folder = Some("/no/such/folder".into());
    let staging = Staging::new(StagingLimits { file_memory_bytes_max: 0, folder, ..ROOMY });
    let error = take_in(&staging, b"x", false, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.message().contains("/no/such/folder"), "{error}");
}

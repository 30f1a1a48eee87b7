use super::*;
use std::io::{Read, Write};
use std::time::Duration;

fn blobs() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    (folder, blobs)
}

fn digest(bytes: &[u8]) -> Digest {
    ingest::digest_of(bytes)
}

#[test]
fn an_ingest_goes_on_where_the_last_one_stopped_also_after_a_restart() {
    let (folder, blobs) = blobs();
    let whole = b"hello, world";
    let id = digest(whole);
    let mut first = blobs.ingest(&id, Some(12)).unwrap();
    first.write(b"hello,").unwrap();
    assert!(matches!(blobs.ingest(&id, None), Err(ContentError::Busy(_))));
    drop(first);
    assert!(blobs.get(&id).unwrap().is_none());

    let blobs = Blobs::open(folder.path()).unwrap();
    let mut second = blobs.ingest(&id, Some(12)).unwrap();
    assert_eq!(second.offset(), 6);
    second.write(b" world").unwrap();
    assert_eq!(second.commit().unwrap().size, 12);
    let mut text = String::new();
    blobs.get(&id).unwrap().unwrap().file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello, world");
    assert_eq!(std::fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn wrong_bytes_become_no_blob_and_are_not_resumed() {
    let (_folder, blobs) = blobs();
    let id = digest(b"right");
    let mut ingest = blobs.ingest(&id, None).unwrap();
    ingest.write(b"wr").unwrap();
    drop(ingest);
    let mut ingest = blobs.ingest(&id, None).unwrap();
    ingest.write(b"ong").unwrap();
    assert!(matches!(ingest.commit(), Err(ContentError::Digest { resumed: true, .. })));
    assert!(blobs.get(&id).unwrap().is_none());
    let mut ingest = blobs.ingest(&id, Some(5)).unwrap();
    assert_eq!(ingest.offset(), 0);
    assert!(matches!(ingest.write(b"too many"), Err(ContentError::Size { expected: 5, .. })));
    ingest.write(b"rig").unwrap();
    assert!(matches!(ingest.commit(), Err(ContentError::Size { expected: 5, found: 3, .. })));
}

#[test]
fn a_follower_reads_along_and_learns_of_the_end_only_when_the_digest_is_right() {
    let (_folder, blobs) = blobs();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
    for good in [true, false] {
        let id = digest(if good { &bytes } else { b"other" });
        let mut ingest = blobs.ingest(&id, None).unwrap();
        ingest.write(&bytes[..1000]).unwrap();
        let mut follower = ingest.follow().unwrap();
        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            follower.read_to_end(&mut read).map(|_| read)
        });
        for piece in bytes[1000..].chunks(70_000) {
            ingest.write(piece).unwrap();
        }
        assert_eq!(ingest.commit().is_ok(), good);
        match reader.join().unwrap() {
            Ok(read) => assert!(good && read == bytes),
            Err(_) => assert!(!good),
        }
    }
}

#[test]
fn leased_needed_open_and_new_blobs_are_not_collected() {
    let (_folder, blobs) = blobs();
    let [leased, needed, other] = ["leased", "needed", "other"].map(|text| blobs.put(text.as_bytes()).unwrap());
    let lease = blobs.lease();
    lease.hold(&leased);
    lease.hold(&leased);
    let open = blobs.ingest(&digest(b"open"), None).unwrap();
    assert_eq!(blobs.collect(|_| false, Duration::from_secs(60)).unwrap().removed, 0);
    assert_eq!(blobs.collect(|id| *id == needed, Duration::ZERO).unwrap().removed, 1);
    assert!(blobs.get(&other).unwrap().is_none());
    assert_eq!(blobs.digests().unwrap(), HashSet::from([leased, needed]));
    drop((lease, open));
    assert!(blobs.remove(&needed).unwrap() && !blobs.remove(&needed).unwrap());
    assert_eq!(blobs.collect(|_| false, Duration::ZERO).unwrap().removed, 2);
}

#[test]
fn a_blob_that_is_removed_while_it_is_read_stays_readable() {
    let (_folder, blobs) = blobs();
    let id = blobs.put(b"text").unwrap();
    let mut blob = blobs.get(&id).unwrap().unwrap();
    assert!(blobs.remove(&id).unwrap());
    let mut text = String::new();
    blob.file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn consumed_bytes_reach_the_follower_and_leave_nothing() {
    let (folder, blobs) = blobs();
    let mut ingest = blobs.ingest(&digest(b"text"), None).unwrap();
    let mut follower = ingest.follow().unwrap();
    ingest.write(b"text").unwrap();
    ingest.consume().unwrap();
    let mut text = String::new();
    follower.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
    assert_eq!(std::fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    assert!(blobs.digests().unwrap().is_empty());
}

#[test]
fn parked_bytes_are_there_for_the_next_ingest_and_no_blob() {
    let (_folder, blobs) = blobs();
    let id = digest(b"parked");
    let mut ingest = blobs.ingest(&id, Some(6)).unwrap();
    let mut follower = ingest.follow().unwrap();
    ingest.write(b"parked").unwrap();
    ingest.park().unwrap();
    let mut text = String::new();
    follower.read_to_string(&mut text).unwrap();
    assert_eq!(text, "parked");
    assert!(blobs.get(&id).unwrap().is_none());
    assert_eq!(blobs.ingest(&id, Some(6)).unwrap().offset(), 6);
    assert!(blobs.remove(&id).unwrap());
    assert_eq!(blobs.ingest(&id, Some(6)).unwrap().offset(), 0);
}

#[test]
fn a_draft_is_read_while_it_is_written_and_ends_when_it_is_told_to() {
    let (_folder, blobs) = blobs();
    let mut draft = blobs.draft().unwrap();
    let mut follower = draft.follow().unwrap();
    draft.write_all(b"hello,").unwrap();
    let mut first = [0; 6];
    follower.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"hello,");
    let reading = std::thread::spawn(move || {
        let mut rest = String::new();
        follower.read_to_string(&mut rest).map(|_| rest)
    });
    draft.write_all(b" world").unwrap();
    draft.end();
    assert_eq!(reading.join().unwrap().unwrap(), " world");

    let mut lost = blobs.draft().unwrap();
    let mut follower = lost.follow().unwrap();
    lost.write_all(b"half").unwrap();
    drop(lost);
    let mut half = Vec::new();
    assert_eq!(follower.read_to_end(&mut half).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(half, b"half");
}

#[test]
fn a_draft_becomes_a_blob_or_nothing() {
    let (folder, blobs) = blobs();
    let mut draft = blobs.draft().unwrap();
    draft.write_all(b"text").unwrap();
    assert_eq!((draft.digest(), draft.size()), (digest(b"text"), 4));
    assert_eq!(draft.seal().unwrap().digest, digest(b"text"));
    assert!(blobs.get(&digest(b"text")).unwrap().is_some());
    let mut lost = blobs.draft().unwrap();
    lost.write_all(b"lost").unwrap();
    drop(lost);
    std::fs::write(folder.path().join("partial/draft-0-0"), "of a crash").unwrap();
    drop(Blobs::open(folder.path()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
}

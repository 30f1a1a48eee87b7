use super::*;
use std::io::Write as _;

fn options(folder: &Path, format: Format, bytes_max: u64, files_max: u32) -> Options {
    Options { format, path: folder.join("log"), bytes_max, files_max, attributes: None }
}

fn texts(reader: &mut Reader) -> Vec<String> {
    std::iter::from_fn(|| reader.next().unwrap()).map(|r| String::from_utf8_lossy(&r.text).into_owned()).collect()
}

fn read(options: &Options, query: Query) -> Vec<String> {
    texts(&mut Reader::open(&options.path, options.files_max, options.format, query).unwrap())
}

#[test]
fn a_json_record_is_docker_s_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), Format::JsonFile, 0, 1);
    let mut writer = Writer::open(options.clone()).unwrap();
    writer.write(Stream::Stderr, b"a<\"\t\xff\xe2\x82\n", 1_709_208_000_500_000_000).unwrap();
    let line = std::fs::read_to_string(&options.path).unwrap();
    let expected = r#"{"log":"a\u003c\"\u0009\ufffd\ufffd\ufffd\n","stream":"stderr","time":"2024-02-29T12:00:00.5Z"}"#;
    assert_eq!(line.trim_end(), expected);
}

#[test]
fn a_long_line_is_split_and_only_its_end_has_the_newline() {
    for format in [Format::JsonFile, Format::Local] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), format, 0, 1);
        let mut writer = Writer::open(options.clone()).unwrap();
        writer.write(Stream::Stdout, &[b'x'; LINE_BYTES_MAX + 5], 1).unwrap();
        writer.write(Stream::Stdout, b"\nlast", 2).unwrap();
        writer.end(Stream::Stdout, 3).unwrap();
        let seen = read(&options, Query::default());
        let lengths: Vec<_> = seen.iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, 6, 4]);
        assert_eq!(seen[2], "last");
    }
}

#[test]
fn a_follower_misses_nothing_across_rotations() {
    for format in [Format::JsonFile, Format::Local] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), format, 400, 5);
        let mut writer = Writer::open(options.clone()).unwrap();
        let query = Query { follow: true, ..Query::default() };
        let mut reader = Reader::open(&options.path, 5, format, query).unwrap();
        let (mut seen, mut written) = (Vec::new(), Vec::new());
        for n in 0..300 {
            let line = format!("line {n}\n");
            writer.write(Stream::Stdout, line.as_bytes(), n).unwrap();
            written.push(line);
            if n % 7 == 0 {
                reader.clear_wait();
                seen.extend(texts(&mut reader));
            }
        }
        seen.extend(texts(&mut reader));
        assert!(writer.rotations() > 10);
        assert_eq!(seen, written);
    }
}

#[test]
fn the_tail_reaches_back_over_rotated_files() {
    for format in [Format::JsonFile, Format::Local] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), format, 300, 10);
        let mut writer = Writer::open(options.clone()).unwrap();
        (0..20).for_each(|n| writer.write(Stream::Stdout, format!("{n}\n").as_bytes(), n).unwrap());
        for tail in [0, 1, 5, 20, 99] {
            let seen = read(&options, Query { tail: Some(tail), ..Query::default() });
            let expected: Vec<_> = (20 - tail.min(20)..20).map(|n| format!("{n}\n")).collect();
            assert_eq!(seen, expected, "{format:?} {tail}");
        }
        let seen = read(&options, Query { since: Some(3), until: Some(5), ..Query::default() });
        assert_eq!(seen, ["3\n", "4\n", "5\n"]);
    }
}

#[test]
fn a_tail_is_whole_and_in_order_while_the_log_rotates() {
    for format in [Format::JsonFile, Format::Local] {
        let folder = tempfile::tempdir().unwrap();
        // Four records a file at least: two files before the newest have eight.
        let options = options(folder.path(), format, 500, 3);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut writer = Writer::open(options.clone()).unwrap();
        let mut write = |n: i64| writer.write(Stream::Stdout, format!("{n:010}\n").as_bytes(), n).unwrap();
        (0..100).for_each(&mut write);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (100..).take_while(|_| !stop.load(std::sync::atomic::Ordering::Relaxed)).for_each(|n| {
                    write(n);
                    std::thread::sleep(std::time::Duration::from_micros(50));
                });
            });
            for _ in 0..2000 {
                let seen = read(&options, Query { tail: Some(8), ..Query::default() });
                let numbers: Vec<i64> = seen.iter().map(|line| line.trim_end().parse().unwrap()).collect();
                assert!(numbers.len() >= 8, "{format:?}: {numbers:?}");
                assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{format:?}: {numbers:?}");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

#[test]
fn a_torn_record_is_not_shown_and_the_next_writer_cuts_it_off() {
    for format in [Format::JsonFile, Format::Local] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), format, 0, 1);
        Writer::open(options.clone()).unwrap().write(Stream::Stdout, b"one\n", 1).unwrap();
        let whole = std::fs::read(&options.path).unwrap();
        for torn in 1..whole.len() {
            let mut file = std::fs::OpenOptions::new().append(true).open(&options.path).unwrap();
            file.write_all(&whole[..torn]).unwrap();
            assert_eq!(read(&options, Query::default()), ["one\n"]);
            let mut writer = Writer::open(options.clone()).unwrap();
            assert_eq!(std::fs::read(&options.path).unwrap(), whole);
            writer.write(Stream::Stderr, b"two\n", 2).unwrap();
            assert_eq!(read(&options, Query::default()), ["one\n", "two\n"]);
            file.set_len(whole.len() as u64).unwrap();
        }
    }
}

#[test]
fn times_come_back_as_they_were_written() {
    for nanos in [0, 1, -1, 951_782_400_000_000_000, 4_102_444_799_999_999_999, -2_208_988_800_000_000_000] {
        assert_eq!(time::parse(&rfc3339_nanos(nanos)), Some(nanos));
    }
    assert_eq!(time::parse("2024-02-29T13:00:00.5+01:00"), Some(1_709_208_000_500_000_000));
    for bad in ["", "2024", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z"] {
        assert_eq!(time::parse(bad), None, "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn text_survives_any_chunking(text in "[a-z\n\u{e9}\"<]{0,400}", step in 1usize..50) {
        for format in [Format::JsonFile, Format::Local] {
            let folder = tempfile::tempdir().unwrap();
            let options = options(folder.path(), format, 0, 1);
            let mut writer = Writer::open(options.clone()).unwrap();
            text.as_bytes().chunks(step).for_each(|c| writer.write(Stream::Stdout, c, 7).unwrap());
            writer.end(Stream::Stdout, 8).unwrap();
            assert_eq!(read(&options, Query::default()).concat(), text);
        }
    }

    #[test]
    fn damaged_files_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        for format in [Format::JsonFile, Format::Local] {
            let folder = tempfile::tempdir().unwrap();
            let options = options(folder.path(), format, 100, 3);
            std::fs::write(&options.path, &bytes).unwrap();
            read(&options, Query::default());
            read(&options, Query { tail: Some(3), ..Query::default() });
            Writer::open(options).unwrap().write(Stream::Stdout, b"x\n", 1).unwrap();
        }
    }
}

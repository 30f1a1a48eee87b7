use super::*;
use proptest::prelude::*;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(encode_name(name).unwrap());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn with_opt(mut bytes: Vec<u8>, size: u16) -> Vec<u8> {
    bytes[11] = 1;
    bytes.extend_from_slice(&[0, 0, 41]);
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes
}

#[test]
fn a_question_is_read_in_any_letters() {
    let read = Query::parse(&query("Web.Example", TYPE_A)).unwrap();
    assert_eq!(read.name.as_deref(), Some("web.example"));
    assert_eq!((read.kind, read.class, read.udp_bytes), (TYPE_A, CLASS_IN, UDP_BYTES_MIN));
    assert_eq!(read.key(), Query::parse(&query("wEB.exampLE", TYPE_A)).unwrap().key());
    let large = Query::parse(&with_opt(query("a", TYPE_A), 4096)).unwrap();
    assert_eq!((large.udp_bytes, large.has_opt), (UDP_BYTES_MAX, true));
    assert_ne!(large.key(), Query::parse(&query("a", TYPE_A)).unwrap().key());
}

#[test]
fn hostile_questions_are_refused_or_ignored() {
    let refuse = |bytes: &[u8]| Query::parse(bytes).unwrap_err();
    assert_eq!(refuse(&[1, 2, 3]), Unreadable::Ignore);
    let mut answer = query("a", TYPE_A);
    answer[2] |= 0x80;
    assert_eq!(refuse(&answer), Unreadable::Ignore, "an answer is never answered");
    let mut update = query("a", TYPE_A);
    update[2] |= 5 << 3;
    assert_eq!(refuse(&update), Unreadable::Refuse(RCODE_NOT_IMPLEMENTED));
    let mut two = query("a", TYPE_A);
    two[5] = 2;
    assert_eq!(refuse(&two), Unreadable::Refuse(RCODE_FORMAT));
    let mut pointer = query("a", TYPE_A);
    pointer[12] = 0xc0;
    assert_eq!(refuse(&pointer), Unreadable::Refuse(RCODE_FORMAT));
    let long = ["a23456789012345678901234567890123456789012345678901234567890123"; 4].join(".");
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in long.split('.').chain(["more"]) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    assert_eq!(refuse(&bytes), Unreadable::Refuse(RCODE_FORMAT));
}

#[test]
fn addresses_are_of_the_asked_kind_and_cut_where_they_do_not_fit() {
    let read = Query::parse(&query("web", TYPE_A)).unwrap();
    let both: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let answer = read.addresses(&both, UDP_BYTES_MIN);
    assert_eq!(answer[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answer[answer.len() - 6..], [0, 4, 10, 0, 0, 2]);
    let other = Query::parse(&query("web", 15)).unwrap().addresses(&both, UDP_BYTES_MIN);
    assert_eq!((other[3] & 0xf, other[7]), (RCODE_OK, 0), "the name is there, such a record is not");
    let many: Vec<IpAddr> = (0..100_u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let cut = read.addresses(&many, UDP_BYTES_MIN);
    assert!(cut.len() <= UDP_BYTES_MIN && cut[2] & 2 != 0 && cut[7] > 10);
    assert_eq!(read.addresses(&many, 65535)[7], 100);
}

#[test]
fn reverse_names_are_addresses() {
    assert_eq!(reverse_address("2.0.0.10.in-addr.arpa"), Some("10.0.0.2".parse().unwrap()));
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(reverse_address(six), Some("fd00::1".parse().unwrap()));
    for bad in ["2.0.0.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "300.0.0.10.in-addr.arpa", "x.ip6.arpa", "a"] {
        assert_eq!(reverse_address(bad), None, "{bad}");
    }
}

fn upstream_answer(ttl: u32) -> Vec<u8> {
    let mut bytes = query("Name.Test", TYPE_A);
    bytes[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
    bytes
}

#[test]
fn a_foreign_answer_gets_the_askers_id_letters_and_its_age() {
    let read = Query::parse(&query("nAME.test", TYPE_A)).unwrap();
    let answer = upstream_answer(100);
    let seen = read_answer(&read, 0x1234, &answer).unwrap();
    assert_eq!(seen, Answer { code: RCODE_OK, truncated: false, ttl_seconds: 100 });
    assert_eq!(read_answer(&read, 1, &answer), None, "another id is another's answer");
    let other = Query::parse(&query("other.test", TYPE_A)).unwrap();
    assert_eq!(read_answer(&other, 0x1234, &answer), None, "another question is another's answer");
    let mine = Query { id: 7, ..read };
    let adapted = mine.adapt(&answer, 40, UDP_BYTES_MIN);
    assert_eq!(adapted[..2], [0, 7]);
    assert_eq!(&adapted[13..17], b"nAME");
    assert_eq!(read_answer(&mine, 7, &adapted).unwrap().ttl_seconds, 60);
    let cut = mine.adapt(&answer, 0, 40);
    assert!(cut.len() < 40 && cut[2] & 2 != 0);
}

#[test]
fn only_what_says_how_long_is_kept() {
    let read = Query::parse(&query("name.test", TYPE_A)).unwrap();
    let mut none = query("name.test", TYPE_A);
    none[2..4].copy_from_slice(&[0x81, 0x83]);
    assert_eq!(read_answer(&read, 0x1234, &none).unwrap().ttl_seconds, 0);
    none[9] = 1;
    none.extend_from_slice(&[0, 0, 6, 0, 1, 0, 0, 0, 90, 0, 22, 0, 0]);
    none.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 30]);
    let seen = read_answer(&read, 0x1234, &none).unwrap();
    assert_eq!((seen.code, seen.ttl_seconds), (RCODE_NO_NAME, 30));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), age in any::<u32>()) {
        if let Ok(read) = Query::parse(&bytes) {
            read.addresses(&["10.0.0.1".parse().unwrap()], UDP_BYTES_MIN);
            read.adapt(&bytes, age, UDP_BYTES_MIN);
            read_answer(&read, read.id, &bytes);
        }
        bare_refusal(&bytes, RCODE_FORMAT);
    }

    /// Damage at any place of good messages.
    #[test]
    fn no_damage_makes_it_panic(at in 0_usize..60, byte in any::<u8>(), cut in 0_usize..60, ttl in any::<u32>()) {
        let read = Query::parse(&query("name.test", TYPE_A)).unwrap();
        let mut bytes = upstream_answer(ttl);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        read_answer(&read, 0x1234, &bytes);
        let adapted = read.adapt(&bytes, 3, UDP_BYTES_MIN);
        prop_assert!(adapted.len() <= UDP_BYTES_MIN);
        let mut question = with_opt(query("name.test", TYPE_A), 1400);
        let length = question.len();
        question[at % length] = byte;
        question.truncate(length - cut % length);
        if let Ok(damaged) = Query::parse(&question) {
            prop_assert!(damaged.udp_bytes >= UDP_BYTES_MIN && damaged.udp_bytes <= UDP_BYTES_MAX);
        }
    }
}

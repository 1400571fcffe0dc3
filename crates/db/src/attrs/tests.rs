use super::*;

fn one(value: impl Into<Value>) -> Item {
    Item::from([("a".to_owned(), value.into())])
}

/// D36: whatever zone a time came in, it is stored so that the order of texts is the order of time.
#[test]
fn times_of_any_zone_are_stored_in_order() {
    let texts = ["2026-01-01T09:00:00+09:00", "2026-01-01T00:00:01Z", "2025-12-31T20:30:02.75-03:30"];
    let read: Vec<_> = texts.iter().map(|text| time(&one(*text), "a").expect("readable")).collect();
    assert!(read.is_sorted());
    let stored: Vec<_> = read.into_iter().map(stamp).collect();
    assert_eq!(stored, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"].map(Value::from));
}

#[test]
fn what_cannot_be_read_is_absent() {
    for text in ["", "yesterday", "2026-01-01 00:00:00", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00Z"] {
        assert_eq!(time(&one(text), "a"), None, "{text}");
    }
    assert_eq!(time(&one(5_i64), "a"), None);
    assert_eq!(text(&one(""), "a"), None);
    assert_eq!(count::<u32>(&one(-1_i64), "a"), None);
    assert_eq!(whole(&one("5"), "a"), None);
    assert!(!flag(&one("true"), "a"));
}

/// Whatever is asked for in whatever order, a reader answers as the row does.
#[test]
fn a_reader_answers_as_its_row_in_any_order() {
    let row: Item = ["b", "d", "dd", "f"].into_iter().map(|name| (name, Value::from(name))).collect();
    let names = ["", "a", "b", "c", "d", "dd", "de", "f", "g"];
    for first in names {
        for second in names {
            for third in names {
                let reader = Reader::new(&row);
                for name in [first, second, third, third] {
                    assert_eq!((&reader).value(name), row.get(name), "{first:?} {second:?} {third:?}");
                }
            }
        }
    }
    assert_eq!((&Reader::new(&Item::new())).value("a"), None);
}

#[test]
fn a_difference_turns_the_old_into_the_new() {
    let old = Item::from([
        ("same".to_owned(), 1_i64.into()),
        ("gone".to_owned(), "x".into()),
        ("n".to_owned(), 1_i64.into()),
    ]);
    let new = Item::from([
        ("same".to_owned(), 1_i64.into()),
        ("come".to_owned(), "y".into()),
        ("n".to_owned(), 2_i64.into()),
    ]);
    let update = difference(&old, &new);
    assert_eq!(update, Update::default().set("come", "y").set("n", 2_i64).remove("gone"));
    assert!(difference(&new, &new).is_empty());
}

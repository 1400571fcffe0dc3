use proptest::prelude::*;

use super::*;
use crate::cond;

/// Writes `note` under the fence as a store would; whether it was written.
fn write(row: &mut Item, fence: Option<Fence>, note: i64) -> bool {
    let (update, cond) = Fence::guard(fence, Update::default().set("note", note), Cond::Always);
    let written = cond::holds(&cond, Some(row));
    if written {
        row.extend(update.set);
    }
    written
}

#[test]
fn a_row_refuses_smaller_tokens_and_takes_equal_and_larger_ones() {
    let mut row = Item::new();
    assert!(write(&mut row, Some(Fence::new(7)), 1), "nobody has written it");
    assert!(write(&mut row, Some(Fence::new(7)), 2), "the same term again");
    assert!(write(&mut row, Some(Fence::new(8)), 3), "a successor");
    assert!(!write(&mut row, Some(Fence::new(7)), 4));
    assert!(Fence::new(7).is_passed_by(&row) && !Fence::new(8).is_passed_by(&row));
    assert!(write(&mut row, None, 5), "a write that needs no leader asks for none");
    assert_eq!((attrs::whole(&row, FENCE), attrs::whole(&row, "note")), (Some(8), Some(5)), "and leaves the fence");
}

proptest! {
    /// Whatever the order in which writes of several terms arrive, the fence never goes back and what is accepted is
    /// in the order of the terms.
    #[test]
    fn accepted_writes_are_in_the_order_of_the_terms(tokens in prop::collection::vec(1_i64..6, 0..40)) {
        let mut row = Item::new();
        let accepted: Vec<i64> =
            tokens.into_iter().filter(|token| write(&mut row, Some(Fence::new(*token)), *token)).collect();
        prop_assert!(accepted.is_sorted());
        prop_assert_eq!(accepted.last().copied(), attrs::whole(&row, FENCE));
    }
}

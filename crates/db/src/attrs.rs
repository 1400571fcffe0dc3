//! Reading and writing single attributes. Readers are lenient: what cannot be read is absent, so that one odd value
//! never hides a whole row.

use std::cell::Cell;

use domain::clock::{Timestamp, whole_seconds};

use crate::table::{Item, Name, Update, Value};

#[cfg(test)]
mod tests;

/// The zero time of Go, which its writer stored for "never".
const GO_ZERO: i64 = -62_135_596_800;

/// Where attributes are read from: a row, or a [`Reader`] of one.
pub(crate) trait Attributes<'a>: Copy {
    /// An attribute.
    fn value(self, name: &str) -> Option<&'a Value>;
}

impl<'a> Attributes<'a> for &'a Item {
    fn value(self, name: &str) -> Option<&'a Value> {
        self.get(name)
    }
}

/// Reads many attributes of a row. Asked in the order of the names it goes through the row once; in any other order it
/// answers the same.
pub(crate) struct Reader<'a> {
    item: &'a Item,
    next: Cell<usize>,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(item: &'a Item) -> Self {
        Self { item, next: Cell::new(0) }
    }
}

impl<'a> Attributes<'a> for &Reader<'a> {
    fn value(self, name: &str) -> Option<&'a Value> {
        let (place, value) = self.item.get_near(self.next.get(), name);
        self.next.set(place);
        value
    }
}

/// Non-empty text.
pub(crate) fn text<'a>(row: impl Attributes<'a>, name: &str) -> Option<&'a str> {
    match row.value(name) {
        Some(Value::S(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The same, owned.
pub(crate) fn string<'a>(row: impl Attributes<'a>, name: &str) -> Option<String> {
    text(row, name).map(str::to_owned)
}

/// A whole number.
pub(crate) fn whole<'a>(row: impl Attributes<'a>, name: &str) -> Option<i64> {
    match row.value(name) {
        Some(Value::N(number)) => Some(*number),
        _ => None,
    }
}

/// A whole number in the range of `T`.
pub(crate) fn count<'a, T: TryFrom<i64>>(row: impl Attributes<'a>, name: &str) -> Option<T> {
    whole(row, name).and_then(|number| T::try_from(number).ok())
}

/// A number with or without a fraction.
#[allow(clippy::cast_precision_loss, reason = "asked for as an approximation")]
pub(crate) fn number<'a>(row: impl Attributes<'a>, name: &str) -> Option<f64> {
    match row.value(name) {
        Some(Value::N(number)) => Some(*number as f64),
        Some(Value::F(number)) => Some(*number),
        _ => None,
    }
}

/// Truth; absent is false.
pub(crate) fn flag<'a>(row: impl Attributes<'a>, name: &str) -> bool {
    matches!(row.value(name), Some(Value::Bool(true)))
}

/// RFC 3339 in any zone, with or without a fraction.
pub(crate) fn time<'a>(row: impl Attributes<'a>, name: &str) -> Option<Timestamp> {
    text(row, name)?.parse().ok().filter(|at: &Timestamp| at.as_second() != GO_ZERO)
}

/// Epoch seconds.
pub(crate) fn seconds<'a>(row: impl Attributes<'a>, name: &str) -> Option<Timestamp> {
    whole(row, name).and_then(|at| Timestamp::from_second(at).ok())
}

/// The texts of a list.
pub(crate) fn texts<'a>(row: impl Attributes<'a>, name: &str) -> Vec<String> {
    match row.value(name) {
        Some(Value::L(list)) => list
            .iter()
            .filter_map(|value| match value {
                Value::S(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// An instant as rows store it: RFC 3339, UTC, whole seconds, so that the order of texts is the order of time.
pub(crate) fn stamp(at: Timestamp) -> Value {
    Value::from(whole_seconds(at).to_string())
}

/// Builds a row. Empty and absent values are left out: an index key must never be an empty text, and a reader cannot
/// tell an absent attribute from an empty one.
#[derive(Default)]
pub(crate) struct Row(pub(crate) Item);

impl Row {
    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.insert(name, value.into());
    }
    #[allow(clippy::needless_pass_by_value, reason = "takes options of references and of new texts alike")]
    pub(crate) fn text<T: AsRef<str>>(&mut self, name: &'static str, text: Option<T>) {
        if let Some(text) = text.as_ref().map(AsRef::as_ref).filter(|text| !text.is_empty()) {
            self.put(name, text);
        }
    }
    pub(crate) fn whole<T: TryInto<i64>>(&mut self, name: &'static str, number: Option<T>) {
        if let Some(number) = number.and_then(|number| number.try_into().ok()) {
            self.put(name, Value::N(number));
        }
    }
    /// A number whose zero means "none".
    pub(crate) fn count(&mut self, name: &'static str, number: u32) {
        self.whole(name, Some(number).filter(|number| *number != 0));
    }
    pub(crate) fn flag(&mut self, name: &'static str, truth: bool) {
        if truth {
            self.put(name, true);
        }
    }
    pub(crate) fn time(&mut self, name: &'static str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.put(name, stamp(at));
        }
    }
    pub(crate) fn seconds(&mut self, name: &'static str, at: Option<Timestamp>) {
        self.whole(name, at.map(Timestamp::as_second));
    }
    pub(crate) fn texts(&mut self, name: &'static str, texts: &[String]) {
        if !texts.is_empty() {
            self.put(name, list(texts));
        }
    }
}

fn list(texts: &[String]) -> Value {
    Value::L(texts.iter().map(|text| Value::from(text.as_str())).collect())
}

/// What sets a record apart from an earlier one: a description names each attribute and how it is read from the
/// record, and only those that differ are written. Set apart from nothing, a record is its whole row.
///
/// Empty and absent values are left out, as by [`Row`].
pub(crate) struct Difference<'a, R> {
    old: Option<&'a R>,
    new: &'a R,
    update: Update,
}

impl<'a, R> Difference<'a, R> {
    pub(crate) fn between(old: Option<&'a R>, new: &'a R, describe: impl Fn(&mut Self)) -> Update {
        let mut difference = Self { old, new, update: Update::default() };
        describe(&mut difference);
        difference.update
    }

    /// The records themselves, for attributes that are not one value.
    pub(crate) const fn records(&self) -> (Option<&'a R>, &'a R) {
        (self.old, self.new)
    }

    pub(crate) fn set(&mut self, name: impl Into<Name>, value: Value) {
        self.update.set.insert(name, value);
    }

    pub(crate) fn remove(&mut self, name: impl Into<Name>) {
        self.update.remove.push(name.into());
    }

    /// An attribute in a form of its own.
    pub(crate) fn value<T: PartialEq>(
        &mut self,
        name: &'static str,
        get: impl Fn(&'a R) -> Option<T>,
        form: impl FnOnce(T) -> Value,
    ) {
        let (old, new) = (self.old.and_then(&get), get(self.new));
        if old == new {
            return;
        }
        match new {
            Some(new) => self.set(name, form(new)),
            None => self.remove(name),
        }
    }
    /// An attribute that is always there.
    pub(crate) fn put<T: PartialEq + Into<Value>>(&mut self, name: &'static str, get: impl Fn(&'a R) -> T) {
        self.value(name, |record| Some(get(record)), Into::into);
    }
    pub(crate) fn text(&mut self, name: &'static str, get: impl Fn(&'a R) -> Option<&'a str>) {
        self.value(name, |record| get(record).filter(|text| !text.is_empty()), Value::from);
    }
    pub(crate) fn whole<T: TryInto<i64>>(&mut self, name: &'static str, get: impl Fn(&'a R) -> Option<T>) {
        self.value(name, |record| get(record).and_then(|number| number.try_into().ok()), Value::N);
    }
    /// A number whose zero means "none".
    pub(crate) fn count(&mut self, name: &'static str, get: impl Fn(&'a R) -> u32) {
        self.whole(name, |record| Some(get(record)).filter(|number| *number != 0));
    }
    pub(crate) fn flag(&mut self, name: &'static str, get: impl Fn(&'a R) -> bool) {
        self.value(name, |record| get(record).then_some(true), Value::Bool);
    }
    pub(crate) fn time(&mut self, name: &'static str, get: impl Fn(&'a R) -> Option<Timestamp>) {
        self.value(name, |record| get(record).map(whole_seconds), stamp);
    }
    pub(crate) fn seconds(&mut self, name: &'static str, get: impl Fn(&'a R) -> Option<Timestamp>) {
        self.whole(name, |record| get(record).map(Timestamp::as_second));
    }
    pub(crate) fn texts(&mut self, name: &'static str, get: impl Fn(&'a R) -> &'a [String]) {
        self.value(name, |record| Some(get(record)).filter(|texts| !texts.is_empty()), list);
    }
}

/// What turns `old` into `new`.
pub(crate) fn difference(old: &Item, new: &Item) -> Update {
    Update {
        set: new
            .iter()
            .filter(|(name, value)| old.get(name) != Some(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        remove: old.keys().filter(|name| !new.contains_key(name)).cloned().collect(),
        ..Update::default()
    }
}

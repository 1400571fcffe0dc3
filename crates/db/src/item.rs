//! A row: attributes by name, in the order of the names, and cheap to pass on.

use std::borrow::Cow;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::table::Value;

/// The name of an attribute. Most are words of this program, which cost nothing to copy.
pub type Name = Cow<'static, str>;

/// The attributes of a row, one after the other.
pub(crate) type Iter<'a> =
    std::iter::Map<std::slice::Iter<'a, (Name, Value)>, fn(&'a (Name, Value)) -> (&'a Name, &'a Value)>;

/// A row, or the inside of a map attribute. A clone shares the attributes until one of the two is changed: reading a
/// row costs no copy of it.
#[derive(Clone, Default)]
pub struct Item(Arc<Vec<(Name, Value)>>);

impl Item {
    /// Without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy with room for `more` attributes, so that they are added without moving everything again.
    pub(crate) fn with_room(&self, more: usize) -> Self {
        let mut attributes = Vec::with_capacity(self.len() + more);
        attributes.extend_from_slice(&self.0);
        Self(Arc::new(attributes))
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_ref().cmp(name))
    }

    /// An attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.place(name).ok().map(|place| &self.0[place].1)
    }

    /// An attribute, and the place behind it. Found at once where it is the next one at or behind `near`, or, being
    /// absent, would be.
    pub(crate) fn get_near(&self, near: usize, name: &str) -> (usize, Option<&Value>) {
        let mut from = near.min(self.0.len());
        if from > 0 && self.0[from - 1].0.as_ref() >= name {
            from = self.place(name).unwrap_or_else(|place| place);
        }
        let skipped = self.0[from..].iter().take_while(|(other, _)| other.as_ref() < name).count();
        match self.0.get(from + skipped) {
            Some((found, value)) if found == name => (from + skipped + 1, Some(value)),
            _ => (from + skipped, None),
        }
    }

    /// An attribute, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let place = self.place(name).ok()?;
        Some(&mut Arc::make_mut(&mut self.0)[place].1)
    }

    /// Whether there is such an attribute.
    pub fn contains_key(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// Sets an attribute, and answers what it was.
    pub fn insert(&mut self, name: impl Into<Name>, value: Value) -> Option<Value> {
        let name = name.into();
        let place = self.place(&name);
        let attributes = Arc::make_mut(&mut self.0);
        match place {
            Ok(place) => Some(std::mem::replace(&mut attributes[place].1, value)),
            Err(place) => {
                attributes.insert(place, (name, value));
                None
            }
        }
    }

    /// Removes an attribute, and answers what it was.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let place = self.place(name).ok()?;
        Some(Arc::make_mut(&mut self.0).remove(place).1)
    }

    /// Keeps the attributes that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        Arc::make_mut(&mut self.0).retain(|(name, _)| keep(name));
    }

    /// Every attribute, in the order of the names.
    pub fn iter(&self) -> Iter<'_> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The attributes whose names do not come before `name`.
    pub fn starting_at(&self, name: &str) -> impl Iterator<Item = (&Name, &Value)> {
        let place = self.place(name).unwrap_or_else(|place| place);
        self.0[place..].iter().map(|(name, value)| (name, value))
    }

    /// The names.
    pub fn keys(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        Arc::make_mut(&mut self.0).iter_mut().map(|(_, value)| value)
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Index<&str> for Item {
    type Output = Value;

    #[allow(clippy::panic, reason = "as every map does")]
    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or_else(|| panic!("the row has no {name}"))
    }
}

impl<N: Into<Name>> Extend<(N, Value)> for Item {
    fn extend<T: IntoIterator<Item = (N, Value)>>(&mut self, attributes: T) {
        for (name, value) in attributes {
            self.insert(name, value);
        }
    }
}

impl<N: Into<Name>> FromIterator<(N, Value)> for Item {
    fn from_iter<T: IntoIterator<Item = (N, Value)>>(attributes: T) -> Self {
        let mut item = Self::new();
        item.extend(attributes);
        item
    }
}

impl<N: Into<Name>, const COUNT: usize> From<[(N, Value); COUNT]> for Item {
    fn from(attributes: [(N, Value); COUNT]) -> Self {
        attributes.into_iter().collect()
    }
}

impl IntoIterator for Item {
    type Item = (Name, Value);
    type IntoIter = std::vec::IntoIter<(Name, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl<'a> IntoIterator for &'a Item {
    type Item = (&'a Name, &'a Value);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Attributes;

        impl<'de> Visitor<'de> for Attributes {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let mut item = Item::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    item.insert(name, value);
                }
                Ok(item)
            }
        }

        deserializer.deserialize_map(Attributes)
    }
}

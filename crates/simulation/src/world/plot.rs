//! A day in one picture.

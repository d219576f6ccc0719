//! Keys, records and interning.

//! One JSON writer for everything whose bytes are hashed.

use serde::Serialize;
use serde_json::Value;

/// Returns the canonical bytes of a document: keys sorted by their bytes, no white space, only the
/// escapes JSON demands, no newline at the end.
///
/// Documents that were received are never written anew: their digest is of the bytes received.
///
/// # Panics
///
/// Never for our own types: maps have string keys, and writing to memory cannot fail.
pub fn canonical_json(value: &impl Serialize) -> Vec<u8> {
    // Struct fields come in source order; going through `Value`, whose maps are sorted, orders
    // them.
    let value = serde_json::to_value(value).expect("documents have string keys");
    serde_json::to_vec(&value).expect("writing to memory cannot fail")
}

/// Takes an object apart, making one of what is not an object.
pub(super) fn object(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_whatever_features_other_crates_turn_on() {
        let value: Value =
            serde_json::from_str(r#"{"b":1,"a":{"z":"<ü\u0001>","Y":[1,2.5,null]}}"#).unwrap();
        assert_eq!(
            String::from_utf8(canonical_json(&value)).unwrap(),
            r#"{"a":{"Y":[1,2.5,null],"z":"<ü\u0001>"},"b":1}"#
        );
    }
}

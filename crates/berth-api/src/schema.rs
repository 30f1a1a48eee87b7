//! Types of the API with their JSON schemas, written once.
//!
//! [`answers!`] and [`requests!`] define a struct, its serde form and its schema from one text, so that the
//! OpenAPI description cannot differ from what is sent. Requests refuse unknown fields: a misspelt limit is an
//! error, not a container without one.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Named schemas met so far: OpenAPI's `components`.
#[derive(Debug, Default)]
pub(crate) struct Defs(BTreeMap<&'static str, Value>);

pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) schema: Value,
    pub(crate) required: bool,
}

pub(crate) trait Schema {
    /// May be absent or null.
    const OPTIONAL: bool = false;
    fn schema(defs: &mut Defs) -> Value;
}

impl Defs {
    pub(crate) fn object(
        &mut self,
        name: &'static str,
        about: &str,
        fields: impl FnOnce(&mut Defs) -> Vec<Field>,
    ) -> Value {
        if !self.0.contains_key(name) {
            // Held while its fields are walked: a type may contain itself.
            self.0.insert(name, Value::Null);
            let fields = fields(self);
            let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
            let mut properties = serde_json::Map::new();
            for field in &fields {
                let mut schema = field.schema.clone();
                if let (Value::Object(map), false) = (&mut schema, field.about.is_empty()) {
                    map.insert("description".to_owned(), field.about.trim().into());
                }
                properties.insert(field.name.to_owned(), schema);
            }
            let mut object = json!({"type": "object", "description": about.trim(), "properties": properties});
            if !required.is_empty() {
                object["required"] = json!(required);
            }
            self.0.insert(name, object);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
    }
}

macro_rules! plain {
    ($($ty:ty => $schema:tt),* $(,)?) => { $(
        impl Schema for $ty {
            fn schema(_: &mut Defs) -> Value { json!($schema) }
        }
    )* };
}

plain! {
    String => {"type": "string"},
    bool => {"type": "boolean"},
    i64 => {"type": "integer", "format": "int64"},
    u64 => {"type": "integer", "format": "int64", "minimum": 0},
    u32 => {"type": "integer", "minimum": 0},
    u16 => {"type": "integer", "minimum": 0, "maximum": 65535},
    f64 => {"type": "number"},
    f32 => {"type": "number"},
    Value => {},
    () => {},
}

impl<T: Schema> Schema for Option<T> {
    const OPTIONAL: bool = true;
    fn schema(defs: &mut Defs) -> Value {
        match T::schema(defs) {
            // Whatever it is, null is among it.
            Value::Object(any) if any.is_empty() => json!({}),
            some => json!({"anyOf": [some, {"type": "null"}]}),
        }
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema(defs: &mut Defs) -> Value {
        json!({"type": "array", "items": T::schema(defs)})
    }
}

impl<T: Schema> Schema for BTreeMap<String, T> {
    fn schema(defs: &mut Defs) -> Value {
        json!({"type": "object", "additionalProperties": T::schema(defs)})
    }
}

/// What the API sends.
macro_rules! answers {
    ($( $(#[doc = $doc:literal])* $name:ident { $( $(#[doc = $about:literal])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, serde::Serialize)]
        pub(crate) struct $name { $( $(#[doc = $about])* pub(crate) $field: $ty ),* }
        $crate::schema::schema_of!($name, concat!($($doc),*), true, $( $field: $ty = concat!("", $($about),*) ),*);
    )* };
}

/// What the API takes; every field may be left out.
macro_rules! requests {
    ($( $(#[doc = $doc:literal])* $name:ident { $( $(#[doc = $about:literal])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $name { $( $(#[doc = $about])* pub(crate) $field: $ty ),* }
        $crate::schema::schema_of!($name, concat!($($doc),*), false, $( $field: $ty = concat!("", $($about),*) ),*);
    )* };
}

macro_rules! schema_of {
    ($name:ident, $doc:expr, $required:expr, $( $field:ident : $ty:ty = $about:expr ),*) => {
        impl $crate::schema::Schema for $name {
            fn schema(defs: &mut $crate::schema::Defs) -> serde_json::Value {
                defs.object(stringify!($name), $doc, |_defs| vec![ $( $crate::schema::Field {
                    name: stringify!($field),
                    about: $about,
                    schema: <$ty as $crate::schema::Schema>::schema(_defs),
                    required: $required && !<$ty as $crate::schema::Schema>::OPTIONAL,
                } ),* ])
            }
        }
    };
}

pub(crate) use {answers, requests, schema_of};

#[cfg(test)]
mod tests {
    use super::*;

    answers! {
        /// A thing.
        Thing { /// Its name.
            name: String, note: Option<String>, more: Vec<Thing> }
    }

    #[test]
    fn a_type_that_contains_itself_has_a_schema() {
        let mut defs = Defs::default();
        assert_eq!(Thing::schema(&mut defs), json!({"$ref": "#/components/schemas/Thing"}));
        let all = defs.into_value();
        assert_eq!(all["Thing"]["properties"]["name"], json!({"type": "string", "description": "Its name."}));
        assert_eq!(all["Thing"]["required"], json!(["name", "more"]));
        assert_eq!(all["Thing"]["properties"]["note"]["anyOf"], json!([{"type": "string"}, {"type": "null"}]));
        assert_eq!(Thing { name: String::new(), note: None, more: Vec::new() }.more.len(), 0);
    }
}

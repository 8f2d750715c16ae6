//! From a message to text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

pub(super) fn message(message: &DynamicMessage, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for field in message.descriptor().fields() {
        if !message.has_field(&field) && !is_written_unset(&field) {
            continue;
        }
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
        text(field.name(), out);
        out.push(b':');
        value(&message.get_field(&field), &field.kind(), out);
    }
    out.push(b'}');
}

/// An optional field for which the `.proto` file names a default.
fn is_written_unset(field: &FieldDescriptor) -> bool {
    let stated = field.field_descriptor_proto();
    let deprecated = stated.options.as_ref().is_some_and(|o| o.deprecated());
    stated.default_value.is_some() && !deprecated
}

fn value(value_: &Value, kind: &Kind, out: &mut Vec<u8>) {
    match value_ {
        Value::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
        Value::I32(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::I64(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::U32(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::U64(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::F32(number) => double(f64::from(*number), out),
        Value::F64(number) => double(*number, out),
        Value::String(string) => text(string, out),
        Value::Bytes(bytes) => text(&STANDARD.encode(bytes), out),
        Value::EnumNumber(number) => {
            let name = kind.as_enum().and_then(|kind| kind.get_value(*number));
            match name {
                Some(name) => text(name.name(), out),
                None => out.extend_from_slice(number.to_string().as_bytes()),
            }
        }
        Value::Message(inner) => message(inner, out),
        Value::List(list) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(item, kind, out);
            }
            out.push(b']');
        }
        Value::Map(map) => {
            let entry = kind.as_message().map(|entry| entry.map_entry_value_field());
            let mut sorted: Vec<(String, &Value)> = map
                .iter()
                .map(|(key, item)| (key_text(key), item))
                .collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            out.push(b'{');
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                text(&key, out);
                out.push(b':');
                let kind = entry
                    .as_ref()
                    .map_or_else(|| kind.clone(), FieldDescriptor::kind);
                value(item, &kind, out);
            }
            out.push(b'}');
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Always with a decimal point; what JSON has no number for is a text, as in Mesos.
fn double(number: f64, out: &mut Vec<u8>) {
    let written = if number.is_nan() {
        "\"NaN\"".to_owned()
    } else if number.is_infinite() {
        let sign = if number < 0.0 { "-" } else { "" };
        format!("\"{sign}Infinity\"")
    } else {
        format!("{number:?}")
    };
    out.extend_from_slice(written.as_bytes());
}

/// A string, all of it ASCII.
fn text(string: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in string.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            ' '..='~' => {
                let mut byte = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut byte).as_bytes());
            }
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    out.push(b'"');
}

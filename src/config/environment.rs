//! `${NAME}` in the configuration's texts is replaced by the environment's value; `$${` stands for `${`.

use super::tree::{Node, Text, Value};

/// Why a text could not be expanded; names what was written, never a value.
pub(super) enum Refusal {
    /// The variable is not set.
    Unset(String),
    /// What stands between the braces is not a variable's name, or the closing brace is missing.
    NotAName(String),
}

/// Expands every text below `node`. The first that cannot be expanded is told with its path of keys and indexes.
pub(super) fn expand_all(
    node: &mut Node,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), (Vec<String>, Refusal)> {
    let under = |step: String| {
        move |(mut path, refusal): (Vec<String>, Refusal)| {
            path.insert(0, step);
            (path, refusal)
        }
    };
    match &mut node.value {
        Value::Text(text) => expand_text(text, environment).map_err(|refusal| (Vec::new(), refusal)),
        Value::List(items) => items.iter_mut().enumerate().try_for_each(|(index, item)| {
            let name = item.name().map_or_else(|| index.to_string(), str::to_owned);
            expand_all(item, environment).map_err(under(format!("[{name}]")))
        }),
        Value::Map(entries) => {
            entries.iter_mut().try_for_each(|(key, item)| expand_all(item, environment).map_err(under(key.clone())))
        }
        Value::Null | Value::Boolean(_) | Value::Integer(_) | Value::Fraction(_) => Ok(()),
    }
}

fn expand_text(text: &mut Text, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), Refusal> {
    if !text.value.contains("${") {
        return Ok(());
    }
    let value = expand(&text.value, environment)?;
    text.written = Some(std::mem::replace(&mut text.value, value));
    Ok(())
}

fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Refusal> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, found) = rest.split_at(start);
        let after = &found["${".len()..];
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            let name: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            return Err(Refusal::NotAName(format!("${{{name}")));
        };
        if !is_name(name) {
            return Err(Refusal::NotAName(format!("${{{name}}}")));
        }
        out.push_str(&environment(name).ok_or_else(|| Refusal::Unset(name.to_owned()))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let environment = |name: &str| match name {
            "A" => Some("apple".to_owned()),
            "_B2" => Some("${A}".to_owned()),
            _ => None,
        };
        let got = expand(text, &environment).map_err(|refusal| match refusal {
            Refusal::Unset(name) => format!("unset {name}"),
            Refusal::NotAName(text) => format!("no name {text}"),
        });
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn variables_are_replaced_once_and_dollars_alone_stay() {
        check("${A}-${A}/x", Ok("apple-apple/x"));
        check("${_B2}", Ok("${A}"));
        check("a$b $ {A} $", Ok("a$b $ {A} $"));
        check("$${A}", Ok("${A}"));
        check("$$${A}", Ok("$${A}"));
    }

    #[test]
    fn a_variable_that_is_unset_or_no_name_is_refused() {
        check("x${NOPE}", Err("unset NOPE"));
        check("x${A", Err("no name ${A"));
        check("x${A/secret", Err("no name ${A"));
        check("${}", Err("no name ${}"));
        check("${A:-b}", Err("no name ${A:-b}"));
        check("${2A}", Err("no name ${2A}"));
    }
}

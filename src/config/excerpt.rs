//! Where in a file's text a key stands. The YAML reader tells no positions, so the keys on the way there are
//! looked for one after the other: right for files as people write them, and only ever used to point at a line.

/// A key's place, and a text whose line `line` may be shown: what follows the key there is left out, since it
/// may be a secret.
pub(super) struct Found {
    pub line: u64,
    pub column: u64,
    pub text: String,
}

/// The place of the last key of `trail`; list items (`[name]`) are found by their name.
pub(super) fn find(text: &str, trail: &[String]) -> Option<Found> {
    let lines: Vec<&str> = text.lines().map(without_comment).collect();
    let mut from = (0, 0);
    let mut found = None;
    for (depth, step) in trail.iter().enumerate() {
        let item = step.strip_prefix('[').and_then(|step| step.strip_suffix(']'));
        let hit = match item {
            Some(item) => search(&lines, from, |line, at| item_at(line, at, item)),
            None if depth == 0 => {
                let first = |line: &str, _| key_at(line, 0, step).filter(|(start, _)| *start == 0);
                search(&lines, from, first).or_else(|| search(&lines, from, |line, at| key_at(line, at, step)))
            }
            None => search(&lines, from, |line, at| key_at(line, at, step)),
        };
        match hit {
            Some((line, start, end)) => {
                from = if item.is_some() { item_start(&lines, line, start) } else { (line, end) };
                found = Some((line, start, end));
            }
            None if step.starts_with('[') => {}
            None => return None,
        }
    }
    let (line, start, end) = found?;
    shown(&lines, line, start, end)
}

/// The place of a line and column the YAML reader told, both from 1.
pub(super) fn point(text: &str, line: usize, column: usize) -> Option<Found> {
    let lines: Vec<&str> = text.lines().collect();
    let index = line.checked_sub(1)?;
    let end = lines.get(index)?.find(':').map_or(0, |colon| colon + 1);
    let mut found = shown(&lines, index, 0, end)?;
    found.column = u64::try_from(column).ok()?;
    Some(found)
}

/// A text of as many lines, of which the last is shown up to `end`.
fn shown(lines: &[&str], line: usize, start: usize, end: usize) -> Option<Found> {
    let full = lines.get(line)?;
    let before = full.get(..start)?;
    let mut text = "\n".repeat(line);
    text.push_str(&masked(full.get(..end)?));
    if full.get(end..).is_some_and(|rest| !rest.trim().is_empty()) {
        text.push_str(" …");
    }
    Some(Found { line: u64::try_from(line).ok()? + 1, column: u64::try_from(before.chars().count()).ok()? + 1, text })
}

/// The same text with what follows `://` starred out: webhooks are secrets.
fn masked(text: &str) -> String {
    let Some(start) = text.find("://") else {
        return text.to_owned();
    };
    let (open, rest) = text.split_at(start + "://".len());
    let end = rest.find(|c: char| c.is_whitespace() || "\"',}".contains(c)).unwrap_or(rest.len());
    let (secret, rest) = rest.split_at(end);
    format!("{open}{}{}", "*".repeat(secret.chars().count()), masked(rest))
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.split_once(" #").map_or(line, |(before, _)| before)
}

/// The first hit at or after `from` (line and byte): its line and where in it the hit begins and ends.
fn search(
    lines: &[&str],
    from: (usize, usize),
    hit: impl Fn(&str, usize) -> Option<(usize, usize)>,
) -> Option<(usize, usize, usize)> {
    lines.iter().enumerate().skip(from.0).find_map(|(number, line)| {
        let start = if number == from.0 { from.1 } else { 0 };
        hit(line, start).map(|(start, end)| (number, start, end))
    })
}

/// A key in a line, from byte `from` on: the word, perhaps in quotes, followed by a colon.
fn key_at(line: &str, from: usize, key: &str) -> Option<(usize, usize)> {
    if key.is_empty() {
        return None;
    }
    line.get(from..)?.match_indices(key).find_map(|(start, _)| {
        let start = from + start;
        let after = line.get(start + key.len()..)?;
        let rest = after.trim_start_matches(['"', '\'']).trim_start();
        let begins = line.get(..start)?.chars().next_back().is_none_or(|c| c.is_whitespace() || "{,\"'[".contains(c));
        (begins && rest.starts_with(':')).then(|| (start, line.len() - rest.len() + 1))
    })
}

/// A `name:` in a line, from byte `from` on, whose value is `item`.
fn item_at(line: &str, from: usize, item: &str) -> Option<(usize, usize)> {
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(['"', '\'', ',', '}', ' ']);
    let mut from = from;
    loop {
        let (start, end) = key_at(line, from, "name")?;
        let value = line.get(end..)?.trim_start().trim_start_matches(['"', '\'']);
        if value.strip_prefix(item).is_some_and(ends) {
            return Some((start, end));
        }
        from = end;
    }
}

/// Where the item begins whose `name` stands at `start`: at the brace before it, else at the line of its dash.
fn item_start(lines: &[&str], line: usize, start: usize) -> (usize, usize) {
    let before = lines.get(line).and_then(|line| line.get(..start)).unwrap_or_default();
    if let Some(brace) = before.rfind('{') {
        return (line, brace);
    }
    let dash = (0..=line).rev().find(|line| lines.get(*line).is_some_and(|line| line.trim_start().starts_with('-')));
    (dash.unwrap_or(line), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# mode: in a comment
source: data # sink: here
databases:
  mode:
    tables:
      - name: orders_old
        mode: append
      - {name: orders, mode: merge}
      - on_delete: mark
        name: users
pipeline_config:
  notification_channels: [{slack_webhook: 'https://hooks/secret', emial: x}]
mode: last
";

    fn check(trail: &[&str], expected: Option<(u64, u64)>) {
        let trail: Vec<_> = trail.iter().map(|step| (*step).to_owned()).collect();
        let found = find(TEXT, &trail);
        assert_eq!(found.map(|found| (found.line, found.column)), expected, "{trail:?}");
    }

    #[test]
    fn keys_are_found_in_order_outside_comments() {
        check(&["source"], Some((2, 1)));
        check(&["sink"], None);
        check(&["mode"], Some((13, 1)));
        check(&["databases", "mode"], Some((4, 3)));
        check(&["databases", "mode", "tables", "[orders]", "mode"], Some((8, 24)));
        check(&["databases", "mode", "tables", "[orders_old]", "mode"], Some((7, 9)));
        check(&["databases", "mode", "tables", "[users]", "on_delete"], Some((9, 9)));
        check(&["databases", "mode", "tables", "[1]"], Some((5, 5)));
        check(&[], None);
    }

    #[test]
    fn an_excerpt_shows_neither_the_value_nor_a_url_before_it() {
        let trail = ["pipeline_config", "notification_channels", "[0]", "emial"].map(str::to_owned);
        let text = find(TEXT, &trail).unwrap().text;
        let line = text.lines().last().unwrap();
        assert!(line.ends_with("emial: …") && line.contains("'https://************'"), "{line}");
    }
}

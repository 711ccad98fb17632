//! `Link` (RFC 8288, 3): several links in one header, with parameters that are tokens or quoted strings.

use crate::challenge::take_value;

/// The target of the first link of a header with the relation type `next`.
pub fn next_link(header: &str) -> Option<String> {
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (target, after) = rest.strip_prefix('<')?.split_once('>')?;
        let (relations, after) = relations(after);
        // A link may have several types, separated by spaces.
        if relations.split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case("next")) {
            return Some(target.to_owned());
        }
        rest = after;
    }
}

/// The value of `rel` among a link's parameters, and what comes after them. Of several the first counts.
fn relations(mut text: &str) -> (String, &str) {
    let mut found = None;
    loop {
        text = text.trim_start_matches([' ', '\t']);
        let Some(parameter) = text.strip_prefix(';') else {
            // Whatever else is there belongs to no parameter.
            return (found.unwrap_or_default(), text.find(',').map_or("", |comma| &text[comma..]));
        };
        let end = parameter.find([';', ',', '=']).unwrap_or(parameter.len());
        let (name, after) = parameter.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            Some(value) => take_value(value.trim_start_matches([' ', '\t']), &[';', ',', ' ', '\t']),
            None => (String::new(), after),
        };
        if name.trim().eq_ignore_ascii_case("rel") {
            found.get_or_insert(value);
        }
        text = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_links() {
        for header in [
            "<u>; rel=\"next\"",
            "<u>;rel=next",
            "<u> ; REL = \"Next\"",
            "<u>; title=\"a; rel=prev, <b>\"; rel=\"last next\"",
            "<a>; rel=\"prev\", <u>;rel=next",
            "<a,b>; rel=prev; x,<u>; title=\"\\\"\"; rel=next; rel=prev",
            ", <a>, <u>; n; rel=next;",
        ] {
            assert_eq!(next_link(header).as_deref(), Some("u"), "{header}");
        }
        assert_eq!(next_link("</x?last=b,c&n=2>; rel=next").as_deref(), Some("/x?last=b,c&n=2"));
        for none in ["", "<a>", "<a>; rel=\"prev\"", "a; rel=next", "<a>; rel=prev; rel=next", "<a; rel=next"] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }
}

//! `WWW-Authenticate` (RFC 9110, 11.6.1): several challenges in one header or several headers, parameters in any order,
//! quoted or bare.

/// Most parameters that are read of one header.
const MAX_PARAMETERS: usize = 64;

/// What a registry wants to see before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token from `realm` (distribution's token authentication).
    Bearer {
        /// The token service's URL; empty where it is missing.
        realm: String,
        /// The name to give it.
        service: Option<String>,
        /// What to ask for; several scopes are separated by spaces.
        scope: Option<String>,
    },
    /// User name and password with each request.
    Basic,
}

impl Challenge {
    /// The challenges of one header that are understood; the others (Negotiate, ...) are left out.
    pub fn parse(header: &str) -> Vec<Self> {
        let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
        let mut rest = header;
        let mut parameters = 0;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (token, after) = take_token(rest);
            if token.is_empty() || parameters == MAX_PARAMETERS {
                break;
            }
            let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
            match (value, found.last_mut()) {
                (Some(value), Some((_, list))) => {
                    let (value, after) = take_value(value.trim_start_matches([' ', '\t']), &[',', ' ', '\t']);
                    list.push((token.to_ascii_lowercase(), value));
                    parameters += 1;
                    rest = after;
                }
                // A parameter without a scheme in front of it: nothing that can be understood.
                (Some(_), None) => break,
                (None, _) => {
                    found.push((token.to_ascii_lowercase(), Vec::new()));
                    rest = skip_token68(after);
                }
            }
        }
        found.into_iter().filter_map(|(scheme, parameters)| Self::from_parts(&scheme, parameters)).collect()
    }

    fn from_parts(scheme: &str, parameters: Vec<(String, String)>) -> Option<Self> {
        let take =
            |name: &str| parameters.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.clone());
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: take("realm").unwrap_or_default(),
                service: take("service"),
                scope: take("scope"),
            }),
            _ => None,
        }
    }
}

fn take_token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(text.len());
    text.split_at(end)
}

/// A quoted string, or a bare value up to one of `ends`: registries leave URLs unquoted, which are no tokens.
pub fn take_value<'a>(text: &'a str, ends: &[char]) -> (String, &'a str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(ends).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Passes over `Negotiate`'s blob of base64, which has no name.
fn skip_token68(text: &str) -> &str {
    let trimmed = text.trim_start_matches([' ', '\t']);
    let end = trimmed.find([',', ' ', '\t']).unwrap_or(trimmed.len());
    let word = &trimmed[..end];
    let is_parameter = word.trim_end_matches('=').contains(['=', '"']) || trimmed[end..].trim_start().starts_with('=');
    let blob = word.ends_with('=') && !is_parameter && !trimmed[end..].trim_start().starts_with('"');
    if blob { &trimmed[end..] } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) }
    }

    #[test]
    fn parameters_in_any_order_and_dress() {
        let all = bearer("https://a/t", Some("s"), Some("repository:x:pull"));
        for header in [
            r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull""#,
            r#"bearer scope="repository:x:pull" , service=s, realm=https://a/t"#,
            r#"BEARER  Realm = "https://a/t", Service ="s", Scope= "repository:x:pull", error="invalid_token""#,
            r#"Negotiate, Bearer realm="https://a/t",service=s,scope=repository:x:pull"#,
            r#"Negotiate YWJj==, Bearer realm="https://a/t",service=s,scope="repository:x:pull""#,
        ] {
            assert_eq!(Challenge::parse(header), std::slice::from_ref(&all), "{header}");
        }
    }

    #[test]
    fn several_challenges_and_escapes() {
        assert_eq!(
            Challenge::parse(r#"Basic realm="a, Bearer b", Bearer realm="https://a/\"t\"?x=1,2""#),
            [Challenge::Basic, bearer(r#"https://a/"t"?x=1,2"#, None, None)]
        );
        assert_eq!(Challenge::parse("Basic"), [Challenge::Basic]);
        assert_eq!(
            Challenge::parse(r#"Bearer realm="r",scope="repository:a:pull repository:b:pull""#),
            [bearer("r", None, Some("repository:a:pull repository:b:pull"))]
        );
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        let text = r#"Bearer realm="é\"=,"x , =Basic a==,b = "c" Negotiate YW= ,;"#;
        for (start, _) in text.char_indices() {
            for (end, _) in text[start..].char_indices() {
                Challenge::parse(&text[start..start + end]);
            }
        }
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in ["", ",,,", "realm=x", "\"", "é", "= = ="] {
            assert_eq!(Challenge::parse(header), [], "{header}");
        }
        for header in ["Bearer", "Bearer realm=", r#"Bearer realm="""#] {
            let nowhere = Challenge::Bearer { realm: String::new(), service: None, scope: None };
            assert_eq!(Challenge::parse(header), [nowhere], "{header}");
        }
    }
}

//! The address of a broker as it is typed: `mqtt://user:password@host:1883`.

use std::net::Ipv6Addr;

/// The parts of a broker URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokerUrl {
    /// How the bytes travel.
    pub(super) scheme: Scheme,
    /// Host name or IP address, IPv6 without brackets.
    pub(super) host: String,
    /// The port, the scheme's own if the URL has none.
    pub(super) port: u16,
    /// Before the `@`.
    pub(super) username: Option<String>,
    /// After the first colon before the `@`.
    pub(super) password: Option<String>,
}

/// What stands before `://`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Plain TCP.
    Mqtt,
    /// TLS.
    Mqtts,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A socket file; host and port say nothing.
    Unix,
}

const SCHEMES: [(&str, Scheme, u16); 5] = [
    ("mqtt", Scheme::Mqtt, 1883),
    ("mqtts", Scheme::Mqtts, 8883),
    ("ws", Scheme::Ws, 80),
    ("wss", Scheme::Wss, 443),
    ("unix", Scheme::Unix, 0),
];

impl BrokerUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let Some((name, rest)) = url.split_once("://") else {
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            let known = SCHEMES
                .iter()
                .any(|(known, ..)| scheme.eq_ignore_ascii_case(known));
            return Err(match known {
                true => format!("`{scheme}:` wants two slashes after it"),
                false => "it has no scheme".into(),
            });
        };
        let known = SCHEMES
            .iter()
            .find(|(known, ..)| name.eq_ignore_ascii_case(known));
        let &(_, scheme, default_port) = known.ok_or_else(|| format!("`{name}` is not a scheme of MQTT"))?;
        let nobody = BrokerUrl {
            scheme,
            host: String::new(),
            port: default_port,
            username: None,
            password: None,
        };
        if scheme == Scheme::Unix {
            return Ok(BrokerUrl {
                host: rest.to_owned(),
                ..nobody
            });
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A WebSocket has a path; for the others only the empty one makes sense.
        if !matches!(path, "" | "/") && !matches!(scheme, Scheme::Ws | Scheme::Wss) {
            return Err("nothing may follow the port".into());
        }
        let (user, host) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(user, host)| (Some(user), host));
        let (host, port) = split_port(host)?;
        let mut parsed = BrokerUrl {
            host: host_name(host)?,
            port: port.unwrap_or(default_port),
            ..nobody
        };
        if let Some(user) = user {
            let (name, password) = user
                .split_once(':')
                .map_or((user, None), |(name, word)| (name, Some(word)));
            parsed.username = Some(percent_decoded(name)?);
            parsed.password = password.map(percent_decoded).transpose()?;
        }
        Ok(parsed)
    }
}

/// `url` with the password, if it has one, unreadable.
pub(super) fn masked(url: &str) -> String {
    let hidden = |(scheme, rest): (&str, &str)| {
        let (user, host) = rest.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        Some(format!("{scheme}://{name}:{MASK}@{host}"))
    };
    url.split_once("://")
        .and_then(hidden)
        .unwrap_or_else(|| url.to_owned())
}

/// Stands for a secret.
pub(super) const MASK: &str = "••••••••";

/// `text` with every password in a URL overwritten, octet by octet, so that nothing moves.
pub(super) fn overwritten(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown += before;
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
            .unwrap_or(after.len());
        let user = after[..end].rfind('@').map(|at| &after[..at]);
        let colon = user.and_then(|user| user.find(':'));
        rest = match (user, colon) {
            (Some(user), Some(colon)) => {
                shown += &user[..=colon];
                shown += &"*".repeat(user.len() - colon - 1);
                &after[user.len()..]
            }
            _ => after,
        };
    }
    shown + rest
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let bracket = text.rfind(']').unwrap_or(0);
    let Some(colon) = text[bracket..].rfind(':').map(|at| at + bracket) else {
        return Ok((text, None));
    };
    let digits = &text[colon + 1..];
    match digits.parse() {
        Ok(0) | Err(_) => Err("its port is not a number from 1 to 65535".into()),
        Ok(port) => Ok((&text[..colon], Some(port))),
    }
}

fn host_name(host: &str) -> Result<String, String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // A zone (`%eth0`) belongs to the address but not to its syntax.
        let address = inner.split('%').next().unwrap_or_default();
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(inner.to_owned()),
            Err(_) => Err(format!("`{inner}` is not an IPv6 address")),
        };
    }
    if host.is_empty() {
        return Err("it has no host".into());
    }
    if host.contains(':') {
        return Err("an IPv6 address goes in brackets".into());
    }
    match host
        .chars()
        .find(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_')))
    {
        Some(wrong) => Err(format!("a host has no {wrong:?} in its name")),
        None => Ok(host.to_owned()),
    }
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            octets.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| core::str::from_utf8(two).ok());
        let octet = digits.filter(|two| two.bytes().all(|c| c.is_ascii_hexdigit()));
        octets.push(
            octet
                .and_then(|two| u8::from_str_radix(two, 16).ok())
                .ok_or("`%` wants two hex digits after it")?,
        );
        rest = &rest[2..];
    }
    String::from_utf8(octets).map_err(|_| "user name and password must be UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let url = BrokerUrl::parse("mqtt://ann:p%40ss:word@broker.example:2883/").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("broker.example", 2883));
        assert_eq!(
            (url.username.as_deref(), url.password.as_deref()),
            (Some("ann"), Some("p@ss:word"))
        );
        assert_eq!(BrokerUrl::parse("mqtt://10.0.0.7").unwrap().port, 1883);
        assert_eq!(
            BrokerUrl::parse("mqtt://[fe80::1%eth0]:99").unwrap().host,
            "fe80::1%eth0"
        );
        assert_eq!(BrokerUrl::parse("wss://h/mqtt").unwrap().scheme, Scheme::Wss);
    }

    #[test]
    fn mistakes_are_named() {
        for (url, wrong) in [
            ("localhost:1883", "it has no scheme"),
            ("mqtt:/h", "`mqtt:` wants two slashes after it"),
            ("http://h", "`http` is not a scheme of MQTT"),
            ("mqtt://", "it has no host"),
            ("mqtt://h:0", "its port is not a number from 1 to 65535"),
            ("mqtt://h:99999", "its port is not a number from 1 to 65535"),
            ("mqtt://h/topic", "nothing may follow the port"),
            ("mqtt://::1:1883", "an IPv6 address goes in brackets"),
            ("mqtt://[::g]:1883", "`::g` is not an IPv6 address"),
            ("mqtt://a b", "a host has no ' ' in its name"),
            ("mqtt://a%4@h", "`%` wants two hex digits after it"),
        ] {
            assert_eq!(BrokerUrl::parse(url).unwrap_err(), wrong, "{url}");
        }
    }

    #[test]
    fn passwords_are_masked() {
        assert_eq!(masked("mqtt://ann:secret@h:1"), "mqtt://ann:••••••••@h:1");
        assert_eq!(masked("mqtt://h:1"), "mqtt://h:1");
        let text = "a = \"mqtt://ann:sé/cr@et@h:1\" # x@y\nb = \"ws://h:80\"";
        assert_eq!(
            overwritten(text),
            "a = \"mqtt://ann:*********@h:1\" # x@y\nb = \"ws://h:80\""
        );
    }
}

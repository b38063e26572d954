//! Runs tests that are named after the statements they prove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};

use super::broker::{Broker, Kind};
use super::packet::Version;

/// A test and the numbers of the normative statements it proves, as `"3.1.0-1 3.1.0-2"`.
pub(crate) struct Test {
    pub(crate) statements: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Broker),
}

/// `tests!["3.1.0-1" => connecting::first_packet_is_connect, ...]`
macro_rules! tests {
    ($($statements:literal => $($path:ident)::+),* $(,)?) => {
        &[$($crate::mqtt::Test {
            statements: $statements,
            name: $crate::mqtt::last_of(concat!($("::", stringify!($path)),+)),
            run: $($path)::+,
        }),*]
    };
}

/// The last segment of a path.
pub(crate) const fn last_of(path: &'static str) -> &'static str {
    let (path, mut n) = (path.as_bytes(), path.len());
    while n > 0 && path[n - 1] != b':' {
        n -= 1;
    }
    match std::str::from_utf8(path.split_at(n).1) {
        Ok(name) => name,
        Err(_) => unreachable!(),
    }
}

impl Test {
    /// `mqtt_3_1_0_1_first_packet_is_connect`; without the number if it proves no numbered statement.
    fn title(&self) -> String {
        let mut title = String::new();
        for statement in self
            .statements
            .split(' ')
            .filter(|statement| !statement.is_empty())
        {
            title += &format!("mqtt_{}_", statement.replace(['.', '-'], "_"));
        }
        title + self.name
    }
}

/// All of a specification's statements by section, `("3.1.0", 2)` for 3.1.0-1 and 3.1.0-2; an exception is the first
/// number of a section where it is not 1.
pub(crate) struct Specification {
    pub(crate) version: Version,
    /// The heading under which docs/mqtt.md lists what is not tested.
    pub(crate) heading: &'static str,
    pub(crate) sections: &'static [(&'static str, u32)],
    /// Numbers that were never given.
    pub(crate) gaps: &'static [&'static str],
}

/// `differences`: tests that mosquitto 2.0.11 fails, and why. They have to fail there, unless the reason begins with
/// "at times".
pub(crate) fn run(
    specification: &'static Specification,
    tests: &'static [Test],
    differences: &[(&str, &str)],
) {
    let mut arguments = Arguments::from_args();
    // Most of them wait for a broker, and some for a second to pass.
    arguments.test_threads.get_or_insert(32);
    let kind = Kind::chosen();

    for (name, _) in differences {
        assert!(
            tests.iter().any(|test| test.title() == *name),
            "there is no test {name}"
        );
    }
    let mut trials: Vec<Trial> = tests
        .iter()
        .map(|test| {
            let kind = kind.clone();
            let reason = differences
                .iter()
                .find(|(name, _)| kind == Kind::Mosquitto && test.title() == *name)
                .map(|(_, reason)| (*reason).to_owned());
            Trial::test(test.title(), move || {
                let outcome = std::panic::catch_unwind(|| {
                    (test.run)(&Broker::start(&kind, specification.version));
                });
                match (outcome, reason) {
                    (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
                    (Ok(()), Some(reason)) if reason.starts_with("at times") => Ok(()),
                    (Ok(()), Some(reason)) => Err(Failed::from(format!("mosquitto should fail: {reason}"))),
                    (Err(panic), None) => std::panic::resume_unwind(panic),
                }
            })
        })
        .collect();
    trials.push(Trial::test("every_statement_is_tested_or_explained", move || {
        specification.check(tests);
        Ok(())
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

impl Specification {
    /// Each statement has a test or a line in docs/mqtt.md, and not both.
    fn check(&self, tests: &[Test]) {
        let mut all = BTreeSet::new();
        for (section, count) in self.sections {
            all.extend((1..=*count).map(|n| format!("{section}-{n}")));
        }
        for gap in self.gaps {
            assert!(all.remove(*gap), "{gap}");
        }

        let mut tested: BTreeMap<String, &str> = BTreeMap::new();
        for test in tests {
            for statement in test
                .statements
                .split(' ')
                .filter(|statement| !statement.is_empty())
            {
                assert!(
                    all.contains(statement),
                    "{}: there is no statement {statement}",
                    test.name
                );
                tested.insert(statement.into(), test.name);
            }
        }
        let explained = self.explained();
        for statement in &explained {
            assert!(
                all.contains(statement),
                "docs/mqtt.md: there is no statement {statement}"
            );
            if let Some(name) = tested.get(statement) {
                panic!("docs/mqtt.md says that {statement} is not tested, but there is {name}");
            }
        }
        let missing: Vec<&String> = all
            .iter()
            .filter(|one| !tested.contains_key(*one) && !explained.contains(*one))
            .collect();
        assert!(
            missing.is_empty(),
            "neither tested nor in docs/mqtt.md: {missing:?}"
        );
    }

    /// The numbers in the first column of the table under our heading of docs/mqtt.md.
    fn explained(&self) -> BTreeSet<String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mqtt.md");
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let section = text
            .split_once(self.heading)
            .unwrap_or_else(|| panic!("docs/mqtt.md has no heading {:?}", self.heading))
            .1;
        let section = section.split("\n#").next().unwrap_or_default();
        let mut numbers = BTreeSet::new();
        for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
            let first = row.split('|').next().unwrap_or_default();
            for number in first.split(',').map(str::trim) {
                if number.starts_with(|c: char| c.is_ascii_digit()) {
                    assert!(numbers.insert(number.into()), "docs/mqtt.md has {number} twice");
                }
            }
        }
        numbers
    }
}

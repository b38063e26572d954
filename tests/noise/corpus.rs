//! What modems say to their drivers, as the first inputs of the fuzz targets.

use core::time::Duration;
use std::fs;
use std::path::Path;

use crate::kinds::Kind;
use crate::rig::Rig;

/// Target, name, what chooses the settings there, and the modem.
const SESSIONS: [(&str, &str, u8, Kind); 7] = [
    ("xbee", "plain", 0, Kind::Xbee { api_mode: 1 }),
    ("xbee", "escaped", 1, Kind::Xbee { api_mode: 2 }),
    ("lora_at", "rak3172", 0, Kind::Rak3172),
    ("lora_at", "rak4270", 1, Kind::Rak4270),
    ("lora_at", "rn2483", 2, Kind::Rn2483),
    ("lora_at", "rylr998", 4, Kind::Rylr998),
    ("lora_at", "rylr896", 5, Kind::Rylr896),
];

/// With `SNIPE_WRITE_CORPUS=1` the sessions are written anew, for drivers that say something else than before.
#[test]
fn the_fuzz_targets_begin_with_a_session_of_each_modem() {
    for (target, name, settings, kind) in SESSIONS {
        let mut rig = Rig::new(kind);
        rig.come_up();
        rig.frame(1);
        rig.pass(Duration::from_secs(1));
        rig.transmit(2);
        rig.pass(Duration::from_secs(2));
        assert!(rig.has_arrived(1), "{name}");
        assert!(rig.is_idle(), "{name}");

        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target)
            .join(name);
        if std::env::var_os("SNIPE_WRITE_CORPUS").is_some() {
            let input = [&[settings], rig.recorded()].concat();
            fs::write(&file, input).unwrap();
        }
        assert_eq!(fs::read(&file).unwrap()[0], settings, "{}", file.display());
    }
}

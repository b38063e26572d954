//! LoRa modems that are driven by lines of text: one engine, and a dialect for each kind of modem.
//!
//! [`driver`] gives the [`Driver`] of a modem. It sets the modem up, keeps it listening, sends one datagram at a time
//! and says when it has left the antenna. A modem that does not answer is asked again, asked for a sign of life, told
//! to start again, and at last its port is opened again, for ever, with growing waits; each step is reported. A modem
//! that starts again by itself is set up again.
//!
//! # What is promised
//! - A datagram that was handed over is reported sent or unsent, once. Unsent is only what cannot have been on the
//!   air: the modem refused it, or was never told. What it was told and never spoke of counts as sent, because a duty
//!   cycle is a matter of law.
//! - No command to send is repeated unless the modem refused it: it could be sent twice.
//! - After each datagram there is time for an answer before the next credit: twice the turnaround and the airtime of
//!   the longest acknowledgement. After a reception nothing is sent before the turnaround is over.
//! - Lines that answer nothing count at once, whatever command waits for its answer.
//! - Acknowledgements of the RadioHead header, of which the core knows nothing, have a quarter of the duty cycle of
//!   their own, and the profile says so; those that find none left are not sent.
//! - What arrives before the modem is set up may come from another network, and is dropped.
//!
//! # A new dialect
//! Write a file in `line/` with a `Dialect`: its `Table` holds the commands that set the modem up, make it listen and
//! make it stop, and how it behaves; `read` says what a line means; `send` writes the command that sends. Add the modem
//! to [`LoraDriver`], to its `abilities`, and to the function `dialect` below. Two that were weighed against the engine:
//!
//! - Seeed LoRa-E5 (TEST mode): `setup` is `AT+LOWPOWER=OFF` (may be refused), `AT+MODE=TEST`, `AT+TEST=STOP` and
//!   `AT+TEST=RFCFG,…`, `listen` is `AT+TEST=RXLRPKT`, `stop` nothing and `before_send` nothing, because any TEST command ends
//!   reception; `deaf_after_send`, `completion` by the line `TX DONE`. Every answer is one line that begins with the
//!   command's name: `read` gives `DoneWith` for it, `Refused` for `ERROR(…)`. The line `LEN:…` is kept in the dialect
//!   until `RX "…"` comes, as the first line of an old RAK3172 is. `check` is `AT+MODE` with an answer that contains
//!   `TEST`, else `SetUp`; a `+RESET` or `+MODE` that nobody asked for is `Started`.
//! - Dragino LA66 (peer-to-peer firmware): `setup` are the `AT+…=` lines and `ATZ` as a step that restarts, `listen`
//!   `AT+RXMOD=65535,0`. `Data:` is kept until `Rssi=` comes. `txDone` may come before or after `OK`: the engine waits for
//!   both in either order.

mod answer;
mod dialect;
mod engine;
mod hear;
mod lines;
mod profile;
mod rak3172;
mod rak4270;
mod recover;
mod reyax;
mod rn2xx3;
mod send;
mod text;

use self::dialect::Dialect;
use self::engine::Engine;
pub use self::profile::{SettingsError, profile};
use crate::driver::Driver;
use crate::settings::{LoraDriver, LoraSettings};

/// Drives a LoRa modem with these settings.
///
/// # Errors
/// The modem does not take a setting.
pub fn driver(settings: &LoraSettings) -> Result<Box<dyn Driver>, SettingsError> {
    let profile = profile(settings)?;
    Ok(Box::new(Engine::new(settings, profile, dialect)))
}

fn dialect(settings: &LoraSettings) -> Box<dyn Dialect> {
    match settings.driver {
        LoraDriver::Rak3172 => rak3172::dialect(settings),
        LoraDriver::Rak4270 => rak4270::dialect(settings),
        LoraDriver::Rn2483 | LoraDriver::Rn2903 => rn2xx3::dialect(settings),
        LoraDriver::Rylr998 | LoraDriver::Rylr896 => reyax::dialect(settings),
    }
}

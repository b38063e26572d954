//! `snipe ping`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    args::PingArgs,
    client::{Client, ToolError, stop},
    session::{Failure, Request},
};

/// Pings until there were enough or the user has enough, prints a summary, and says whether any was answered.
pub(crate) async fn ping(args: &PingArgs) -> Result<bool, ToolError> {
    let stopped = stop(args.link.wait);
    tokio::pin!(stopped);
    let mut client = tokio::select! {
        client = Client::open(&args.link, args.options()) => client?,
        end = &mut stopped => return Err(end),
    };
    let mut statistics = Statistics::default();
    let result = tokio::select! {
        result = ping_all(&mut client, args, &mut statistics) => result,
        // The summary is the result, however the end comes.
        _ = &mut stopped => Ok(()),
    };
    client.farewell().await;
    println!("--- {}: {statistics}", client.gateway());
    result.map(|()| !statistics.times.is_empty())
}

async fn ping_all(
    client: &mut Client,
    args: &PingArgs,
    statistics: &mut Statistics,
) -> Result<(), ToolError> {
    // An interval of zero: one after the other.
    let mut ticks = interval(args.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while args.count.is_none_or(|count| statistics.sent < count) {
        // Between pings the session's own duties go on.
        loop {
            tokio::select! {
                _ = ticks.tick() => break,
                error = client.idle(), if client.is_connected() => client.complain(&error.to_string()),
            }
        }
        statistics.sent += 1;
        match round_trip(client).await {
            Ok(time) => {
                statistics.times.push(time);
                println!("{}: time {}", Gateway(client), Millis(time));
            }
            Err(
                error @ ToolError::Failed {
                    failure: Failure::Rejected { .. },
                    ..
                },
            ) => return Err(error),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}

async fn round_trip(client: &mut Client) -> Result<Duration, ToolError> {
    if !client.is_connected() {
        // The answer says which gateway it is; it may come while CONNECT waits, or never.
        client.search();
        client.connect().await?;
    }
    let start = Instant::now();
    client.request(Request::Ping).await?;
    Ok(start.elapsed())
}

/// `gateway 1 at 127.0.0.1:1883`, as far as it is known.
struct Gateway<'a>(&'a Client);

impl fmt::Display for Gateway<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.gateway_id() {
            Some(id) => write!(f, "gateway {id} at {}", self.0.gateway()),
            None => write!(f, "gateway at {}", self.0.gateway()),
        }
    }
}

/// Milliseconds with the digits that mean something.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        match millis {
            ..10.0 => write!(f, "{millis:.2} ms"),
            ..100.0 => write!(f, "{millis:.1} ms"),
            _ => write!(f, "{millis:.0} ms"),
        }
    }
}

#[derive(Debug, Default)]
struct Statistics {
    sent: u32,
    times: Vec<Duration>,
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.times.len() as u32;
        write!(f, "{} sent, {answered} answered", self.sent)?;
        if self.sent > 0 {
            let lost = f64::from(self.sent - answered) / f64::from(self.sent) * 100.0;
            write!(f, ", {lost:.0} % lost")?;
        }
        if let (Some(min), Some(max)) = (self.times.iter().min(), self.times.iter().max()) {
            let mean = self.times.iter().sum::<Duration>() / answered;
            write!(
                f,
                ", min/mean/max {} / {} / {}",
                Millis(*min),
                Millis(mean),
                Millis(*max)
            )?;
        }
        Ok(())
    }
}

//! `snipe pub`.

use std::{
    fs,
    io::{self, BufRead, Read},
    thread,
    time::Duration,
};

use sn_codec::{PublishQoS, TopicRef};
use tokio::{sync::mpsc, time::timeout};

use super::{
    args::{PubArgs, Source},
    client::{Client, ToolError, stop},
    session::{Outcome, Request, Topic},
};

/// What is published: read before the session begins, except for lines, which come as they come.
#[derive(Debug)]
pub(crate) enum Messages {
    Repeated(Vec<u8>),
    Lines(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Messages {
    /// Reads the payload, or starts to read lines.
    ///
    /// # Errors
    /// The file or standard input cannot be read.
    pub(crate) fn read(source: Source) -> Result<Messages, ToolError> {
        match source {
            Source::Text(text) => Ok(Messages::Repeated(text)),
            Source::File(path) => fs::read(&path)
                .map(Messages::Repeated)
                .map_err(|error| ToolError::Input {
                    what: path.display().to_string(),
                    error,
                }),
            Source::Stdin => {
                let mut payload = Vec::new();
                io::stdin()
                    .lock()
                    .read_to_end(&mut payload)
                    .map_err(stdin_error)?;
                Ok(Messages::Repeated(payload))
            }
            Source::Lines => Ok(Messages::Lines(stdin_lines())),
        }
    }
}

/// Publishes everything, says goodbye, and reports what went wrong.
pub(crate) async fn publish(args: &PubArgs, topic: Topic, mut messages: Messages) -> Result<(), ToolError> {
    let stopped = stop(args.link.wait);
    tokio::pin!(stopped);
    let mut client = tokio::select! {
        client = Client::open(&args.link, args.session.options(&args.link, "pub")) => client?,
        end = &mut stopped => return Err(end),
    };
    let result = tokio::select! {
        result = publish_all(&mut client, args, topic, &mut messages) => result,
        end = &mut stopped => Err(end),
    };
    if result.is_err() {
        client.farewell().await;
    }
    result
}

async fn publish_all(
    client: &mut Client,
    args: &PubArgs,
    topic: Topic,
    messages: &mut Messages,
) -> Result<(), ToolError> {
    // §6.8: QoS −1 needs no session.
    let in_session = args.qos != PublishQoS::MinusOne;
    if in_session {
        client.connect().await?;
    }
    let topic = match topic {
        Topic::Name(name) => match client.request(Request::Register { name }).await? {
            Outcome::Registered(id) => TopicRef::Normal(id),
            other => unreachable!("REGISTER ends with {other:?}"),
        },
        Topic::Predefined(id) => TopicRef::Predefined(id),
        Topic::Short(short) => TopicRef::Short(short),
    };
    let publish = |data| Request::Publish {
        topic,
        qos: args.qos,
        retain: args.retain,
        data,
    };
    match messages {
        Messages::Repeated(payload) => {
            for turn in 0..args.repeat {
                if turn > 0 {
                    pause(client, args.repeat_delay).await?;
                }
                client.request(publish(payload.clone())).await?;
            }
        }
        Messages::Lines(lines) => loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                error = client.idle() => return Err(error),
            };
            match line {
                Some(Ok(line)) => client.request(publish(line)).await?,
                Some(Err(error)) => return Err(stdin_error(error)),
                None => break,
            };
        },
    }
    if in_session {
        client.disconnect().await
    } else {
        Ok(())
    }
}

/// Waits, and answers the gateway meanwhile.
async fn pause(client: &mut Client, delay: Duration) -> Result<(), ToolError> {
    match timeout(delay, client.idle()).await {
        Ok(error) => Err(error),
        Err(_elapsed) => Ok(()),
    }
}

/// Lines of standard input without their line feed, read by a thread of their own: a blocked read must not
/// keep the session from its keep-alive.
fn stdin_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn stdin_error(error: io::Error) -> ToolError {
    ToolError::Input {
        what: "standard input".to_owned(),
        error,
    }
}

//! `snipe sub`.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use super::{
    args::SubArgs,
    client::{Client, ToolError, stop},
    session::{Failure, Request, Topic},
};

/// Between a lost gateway and the next attempt to connect.
const RECONNECT: Duration = Duration::from_secs(1);

/// Subscribes and prints until there is enough, the user has enough, or the gateway says no.
pub(crate) async fn subscribe(args: &SubArgs) -> Result<(), ToolError> {
    let stopped = stop(args.link.wait);
    tokio::pin!(stopped);
    let mut client = tokio::select! {
        client = Client::open(&args.link, args.session.options(&args.link, "sub")) => client?,
        end = &mut stopped => return Err(end),
    };
    let result = tokio::select! {
        result = print_messages(&mut client, args) => result,
        end = &mut stopped => Err(end),
    };
    match result {
        Ok(()) => client.disconnect().await,
        Err(error) => {
            client.farewell().await;
            Err(error)
        }
    }
}

async fn print_messages(client: &mut Client, args: &SubArgs) -> Result<(), ToolError> {
    let topics = args.topics();
    let mut wanted = args.count;
    open(client, &topics, args).await?;
    loop {
        match receive(client, args, &mut wanted).await {
            Err(error) if is_lost(&error) => client.complain(&format!("{error}; connecting again")),
            result => return result,
        }
        // Once subscribed, a gateway that restarts or is out of reach for a while is waited for.
        loop {
            sleep(RECONNECT).await;
            match open(client, &topics, args).await {
                Ok(()) => break,
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
        client.complain("connected and subscribed again");
    }
}

async fn open(client: &mut Client, topics: &[Topic], args: &SubArgs) -> Result<(), ToolError> {
    client.connect().await?;
    for topic in topics {
        client
            .request(Request::Subscribe {
                topic: topic.clone(),
                qos: args.qos,
            })
            .await?;
    }
    Ok(())
}

async fn receive(client: &mut Client, args: &SubArgs, wanted: &mut Option<u64>) -> Result<(), ToolError> {
    let format = args.output_format();
    let terminal = io::stdout().is_terminal();
    while *wanted != Some(0) {
        let message = client.next_message().await?;
        if args.no_retained && message.retain {
            continue;
        }
        format
            .write(&mut io::stdout().lock(), &message, SystemTime::now(), terminal)
            .map_err(ToolError::Output)?;
        if let Some(wanted) = wanted {
            *wanted -= 1;
        }
    }
    Ok(())
}

/// The gateway is gone, which may pass; a rejection does not.
fn is_lost(error: &ToolError) -> bool {
    matches!(
        error,
        ToolError::Failed {
            failure: Failure::NoAnswer { .. } | Failure::Closed,
            ..
        } | ToolError::Refused(_)
            | ToolError::Network { .. }
    )
}

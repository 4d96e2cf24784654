//! The task that asks a launcher for what the owner wants, one request at a time, and sends each
//! answer back to the owner as an input. It decides nothing.

use std::time::Duration;

use schedule::allocation::{LaunchAnswer, LaunchInput, LaunchRequest, Launcher};
use schedule::event::Input;
use tokio::sync::mpsc;

use crate::requests::{OwnerRequest, ask};

/// Pause before an answer is sent again that the owner could not journal.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until the owner drops its end. The state machine has one request under way at a time, so
/// nothing queues up here.
pub async fn run(
    mut launcher: Box<dyn Launcher>,
    mut requests: mpsc::Receiver<LaunchRequest>,
    owner: mpsc::Sender<OwnerRequest>,
) {
    while let Some(request) = requests.recv().await {
        tracing::debug!(?request, "asking the launcher");
        let answer = launcher.perform(request).await;
        tracing::debug!(?answer, "the launcher answers");
        deliver(&owner, answer).await;
    }
}

async fn deliver(owner: &mpsc::Sender<OwnerRequest>, answer: LaunchAnswer) {
    loop {
        let input = Input::Launch(LaunchInput::Answered(answer.clone()));
        match ask(owner, |reply| OwnerRequest::Command { input, reply }).await {
            Ok(_) => return,
            Err(status) if status.code() == tonic::Code::Unavailable && !owner.is_closed() => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => {
                tracing::error!(%status, "an answer of the launcher was not taken");
                return;
            }
        }
    }
}

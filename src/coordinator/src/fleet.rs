//! Service Fleet: one task per worker's stream, which reads messages, checks them and passes them
//! on. The owner decides on them.

use std::time::Duration;

use protocol::invalid::name;
use protocol::v1::fleet_server::Fleet;
use protocol::{FromCoordinator, FromWorker, Hello, Invalid, v1};
use schedule::event::Rejected;
use schedule::state::WorkerId;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::kept_files::KeptFiles;
use crate::outbox::{OutboxStream, outbox};
use crate::programs::ProgramStore;
use crate::requests::{OwnerRequest, Stream, ToWorker};

/// Deadline for the Hello; a peer that connects and does not send it is cut off.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Limit on the bytes under way to one worker: all its slots can be filled at once.
const OUTGOING_BYTES: u32 = 16 << 20;

pub struct FleetService {
    pub owner: mpsc::Sender<OwnerRequest>,
    /// The build that workers must have.
    pub build: String,
    pub kept: KeptFiles,
    pub programs: ProgramStore,
}

#[tonic::async_trait]
impl Fleet for FleetService {
    type ConnectStream = OutboxStream<v1::CoordinatorMessage>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outgoing, messages) = outbox(OUTGOING_BYTES);
        let (owner, build) = (self.owner.clone(), self.build.clone());
        tokio::spawn(serve(request.into_inner(), outgoing, owner, build));
        Ok(Response::new(messages))
    }

    async fn keep(
        &self,
        request: Request<Streaming<v1::KeptPiece>>,
    ) -> Result<Response<v1::KeepReply>, Status> {
        self.kept.receive(request.into_inner()).await?;
        Ok(Response::new(v1::KeepReply {}))
    }

    type GetProgramStream = ReceiverStream<Result<v1::ProgramPiece, Status>>;

    async fn get_program(
        &self,
        request: Request<v1::ProgramRequest>,
    ) -> Result<Response<Self::GetProgramStream>, Status> {
        let pieces = self.programs.open(&request.into_inner().archive).await?;
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

async fn serve(
    mut incoming: Streaming<v1::WorkerMessage>,
    outgoing: ToWorker,
    owner: mpsc::Sender<OwnerRequest>,
    build: String,
) {
    let hello = receive_hello(&mut incoming, &build);
    let hello = match tokio::time::timeout(HELLO_DEADLINE, hello).await {
        Ok(Ok(Ok(hello))) => hello,
        Ok(Ok(Err(rejected))) => {
            let reason = rejected.to_string();
            tracing::warn!(reason, "refusing a worker");
            outgoing.send(FromCoordinator::Refused { reason }.into());
            return;
        }
        Ok(Err(status)) => return outgoing.end(status),
        Err(_) => return outgoing.end(Status::deadline_exceeded("no Hello was sent")),
    };
    let (worker, connection) = (hello.worker.clone(), hello.connection);
    let (cut, mut is_cut) = oneshot::channel();
    let (accepted, is_accepted) = oneshot::channel();
    let closer = outgoing.closer();
    // The owner has the sending half now; when the owner drops it, the worker must see the end of
    // the stream.
    let stream = Stream {
        outgoing,
        cut,
        accepted: Some(accepted),
    };
    if owner
        .send(OwnerRequest::Connected {
            hello: Box::new(hello),
            stream,
        })
        .await
        .is_err()
    {
        return;
    }
    if is_accepted.await.is_err() {
        return;
    }
    loop {
        let message = tokio::select! {
            message = receive(&mut incoming) => message,
            _ = &mut is_cut => return,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => {
                closer.end(status);
                break;
            }
        };
        if owner
            .send(OwnerRequest::Received {
                worker: worker.clone(),
                connection,
                message,
            })
            .await
            .is_err()
        {
            return;
        }
    }
    let _ = owner
        .send(OwnerRequest::Closed { worker, connection })
        .await;
}

/// Reads the Hello. A worker of another build is refused before the rest is read, which may have
/// another form than here.
async fn receive_hello(
    incoming: &mut Streaming<v1::WorkerMessage>,
    build: &str,
) -> Result<Result<Hello, Rejected>, Status> {
    let Some(message) = incoming.message().await? else {
        return Err(Status::cancelled("the worker closed the connection"));
    };
    if let Some(v1::worker_message::Message::Hello(hello)) = &message.message
        && let Some(rejected) = other_build(hello, build)?
    {
        return Ok(Err(rejected));
    }
    match FromWorker::try_from(message)? {
        FromWorker::Hello(hello) => Ok(Ok(hello)),
        _ => Err(Status::invalid_argument("a stream begins with Hello")),
    }
}

fn other_build(hello: &v1::Hello, build: &str) -> Result<Option<Rejected>, Invalid> {
    let worker = WorkerId(name("hello.worker", hello.worker.clone())?.into());
    let worker_build = name("hello.build", hello.build.clone())?;
    Ok((worker_build != build).then(|| Rejected::OtherBuild {
        worker,
        worker_build,
        coordinator_build: build.to_owned(),
    }))
}

async fn receive(
    incoming: &mut Streaming<v1::WorkerMessage>,
) -> Result<Option<FromWorker>, Status> {
    match incoming.message().await? {
        Some(message) => Ok(Some(FromWorker::try_from(message)?)),
        None => Ok(None),
    }
}

//! Service Control: turns each call into a message to the owner, and the owner's answer into a
//! reply.

use protocol::invalid::{line, name, optional_name};
use protocol::v1;
use protocol::v1::control_server::Control;
use schedule::event::Retry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::message::{self, Change, Message, Read, Reply};
use crate::outbox::{Taken, outbox};
use crate::reports::Reports;

/// Limit on the bytes under way to one `tail`; one that falls further behind is cut off.
const TAIL_BYTES: u32 = 1 << 20;
/// Maximum width of a table; wider ones are of no use.
const MAX_WIDTH: u32 = 10_000;

pub struct ControlService {
    owner: mpsc::Sender<Message>,
    reports: Reports,
}

impl ControlService {
    pub fn new(owner: mpsc::Sender<Message>) -> Self {
        Self {
            reports: Reports::new(owner.clone()),
            owner,
        }
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Message) -> Result<T, Status> {
        message::ask(&self.owner, question).await
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitReply>, Status> {
        // The check of 100,000 cells takes a while: not on a thread that other calls wait for.
        let request = request.into_inner();
        let checked = tokio::task::spawn_blocking(move || request.into_sweep()).await;
        let (sweep, build) = checked.map_err(|error| Status::internal(error.to_string()))??;
        let done = self
            .ask(|reply| {
                Message::Change(Change::Submit {
                    sweep,
                    build,
                    reply,
                })
            })
            .await?;
        Ok(Response::new(v1::SubmitReply {
            sweep: done.sweep,
            revision: done.revision,
            trials: done.trials,
            reused: done.reused,
            shared: done.shared,
            dropped: done.dropped,
            explanation: done.explanation,
            failed: done.failed,
        }))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        let sweep = optional_name("sweep", request.into_inner().sweep)?;
        self.ask(|reply| Message::Read(Read::Status { sweep, reply }))
            .await
            .map(Response::new)
    }

    type TailStream = Taken<v1::TailMessage>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let (messages, taken) = outbox(TAIL_BYTES);
        let sweep = name("sweep", request.into_inner().sweep)?;
        let sent = self
            .owner
            .send(Message::Read(Read::Tail { sweep, messages }))
            .await;
        sent.map_err(|_| Status::unavailable("the coordinator is ending"))?;
        Ok(Response::new(taken))
    }

    type GetReportStream = ReceiverStream<Result<v1::ReportChunk, Status>>;

    async fn get_report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<Self::GetReportStream>, Status> {
        let request = request.into_inner();
        let files = request.files();
        let sweep = name("sweep", request.sweep)?;
        let width = if request.width == 0 {
            report::TERMINAL_WIDTH
        } else {
            request.width.min(MAX_WIDTH) as usize
        };
        let chunks = self.reports.open(sweep, width, files).await?;
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelReply>, Status> {
        let sweep = name("sweep", request.into_inner().sweep)?;
        let cancelled = self
            .ask(|reply| Message::Change(Change::Cancel { sweep, reply }))
            .await?;
        Ok(Response::new(v1::CancelReply { cancelled }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::RetryReply>, Status> {
        let v1::RetryRequest { sweep, all, cells } = request.into_inner();
        let sweep = name("sweep", sweep)?;
        let cells = cells
            .iter()
            .map(|cell| line("cells", cell).map(String::from))
            .collect::<Result<Vec<_>, _>>()?;
        let which = match (all, cells.is_empty()) {
            (false, true) => Retry::Failed,
            (true, true) => Retry::All,
            (false, false) => Retry::Cells(cells),
            (true, false) => {
                return Err(Status::invalid_argument(
                    "`all` and `cells` exclude each other",
                ));
            }
        };
        let retried = self
            .ask(|reply| {
                Message::Change(Change::Retry {
                    sweep,
                    which,
                    reply,
                })
            })
            .await?;
        Ok(Response::new(v1::RetryReply { retried }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        let trial = name("trial", request.into_inner().trial)?;
        self.ask(|reply| Message::Read(Read::Explain { trial, reply }))
            .await
            .map(Response::new)
    }

    async fn why(
        &self,
        request: Request<v1::WhyRequest>,
    ) -> Result<Response<v1::WhyReply>, Status> {
        let v1::WhyRequest { sweep, cell } = request.into_inner();
        let (sweep, cell) = (name("sweep", sweep)?, String::from(line("cell", &cell)?));
        let why = self.reports.why(sweep, cell).await?;
        Ok(Response::new(v1::WhyReply {
            text: why.text,
            json: why.json.to_string().into_bytes(),
        }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainReply>, Status> {
        let v1::DrainRequest { worker, reason } = request.into_inner();
        let worker = name("worker", worker)?;
        let reason = if reason.is_empty() {
            "drained by a user".into()
        } else {
            line("reason", &reason)?
        };
        self.ask(|reply| {
            Message::Change(Change::Drain {
                worker,
                reason,
                reply,
            })
        })
        .await?;
        Ok(Response::new(v1::DrainReply {}))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainReply>, Status> {
        let host = name("host", request.into_inner().host)?;
        self.ask(|reply| Message::Change(Change::Undrain { host, reply }))
            .await?;
        Ok(Response::new(v1::UndrainReply {}))
    }
}

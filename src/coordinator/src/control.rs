//! Service Control: turns each call into a message to the owner, and the owner's answer into a
//! reply.

use protocol::invalid::{line, name, optional_name};
use protocol::v1;
use protocol::v1::control_server::Control;
use protocol::{Bearer, GrantId};
use schedule::Answer;
use schedule::allocation::LaunchInput;
use schedule::event::{Input, Retry};
use sweep::TrialId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::http::Logins;
use crate::kept_files::{KeptFile, KeptFiles};
use crate::outbox::{OutboxStream, outbox};
use crate::programs::ProgramStore;
use crate::reports::{Reports, Text};
use crate::requests::{OwnerRequest, Question, Unused, ask};
use crate::stored_results::OpenResults;

/// Limit on the bytes under way to one `tail`; one that falls further behind is cut off.
const TAIL_BYTES: u32 = 1 << 20;
/// Maximum width of a table; wider ones are of no use.
const MAX_WIDTH: u32 = 10_000;

pub struct ControlService {
    owner: mpsc::Sender<OwnerRequest>,
    reports: Reports,
    kept: KeptFiles,
    programs: ProgramStore,
    logins: Logins,
    /// The build that submitters must have.
    build: String,
}

impl ControlService {
    pub fn new(
        owner: mpsc::Sender<OwnerRequest>,
        results: OpenResults,
        (kept, programs): (KeptFiles, ProgramStore),
        logins: Logins,
        build: String,
    ) -> Self {
        Self {
            kept,
            programs,
            logins,
            reports: Reports::new(owner.clone(), results),
            owner,
            build,
        }
    }

    /// Sends a command, and returns its answer once the change is durable.
    async fn command(&self, input: Input) -> Result<Answer, Status> {
        ask(&self.owner, |reply| OwnerRequest::Command { input, reply }).await
    }

    /// Returns those of these files that no sweep uses, or that none but this one does.
    async fn unused(&self, stored: Vec<KeptFile>, sweep: &str) -> Result<Unused, Status> {
        let sweep = sweep.to_owned();
        let question = |reply| {
            OwnerRequest::Question(Question::Unused {
                stored,
                sweep,
                reply,
            })
        };
        ask(&self.owner, question).await
    }

    fn check_build(&self, build: &str) -> Result<(), Status> {
        let build = line("build", build)?;
        if *build == *self.build {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "this command is of build `{build}`, the coordinator of `{}`: use those of one build",
            self.build
        )))
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitReply>, Status> {
        let request = request.into_inner();
        self.check_build(&request.build)?;
        // The check of a large sweep takes seconds: not on a thread that other calls wait for.
        let checked = tokio::task::spawn_blocking(move || request.into_sweep()).await;
        let sweep = checked.map_err(|error| Status::internal(error.to_string()))??;
        if let Some(program) = sweep.sweep().trainer.submitted() {
            self.programs.require(program).await?;
        }
        let submission = self.command(Input::Submit { sweep }).await?.submission;
        Ok(Response::new(v1::SubmitReply {
            sweep: submission.sweep,
            revision: submission.revision,
            trials: submission.trials,
            reused: submission.reused,
            shared: submission.shared,
            dropped: submission.dropped,
            explanation: submission.explanation,
            failed: submission.failed,
        }))
    }

    async fn put_program(
        &self,
        request: Request<Streaming<v1::ProgramPiece>>,
    ) -> Result<Response<v1::PutProgramReply>, Status> {
        self.programs.receive(request.into_inner()).await?;
        Ok(Response::new(v1::PutProgramReply {}))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        let sweep = optional_name("sweep", request.into_inner().sweep)?;
        let question = |reply| OwnerRequest::Question(Question::Status { sweep, reply });
        ask(&self.owner, question).await.map(Response::new)
    }

    type TailStream = OutboxStream<v1::TailMessage>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let (messages, taken) = outbox(TAIL_BYTES);
        let sweep = name("sweep", request.into_inner().sweep)?;
        let sent = self
            .owner
            .send(OwnerRequest::Question(Question::Tail { sweep, messages }))
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
        let form = Text {
            width,
            tables_only: request.tables_only,
        };
        let chunks = self.reports.open(sweep, form, files).await?;
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn list_kept(
        &self,
        request: Request<v1::ListKeptRequest>,
    ) -> Result<Response<v1::ListKeptReply>, Status> {
        let sweep = name("sweep", request.into_inner().sweep)?;
        let files = self.reports.kept_files(&self.kept, sweep).await?;
        let file = |file: KeptFile| v1::KeptFile {
            attempt: file.attempt.to_string(),
            kept: file.kept.word().to_owned(),
            bytes: file.bytes,
            stored_at_ms: file.stored_at_ms,
        };
        let files = files.into_iter().map(file).collect();
        Ok(Response::new(v1::ListKeptReply { files }))
    }

    type GetKeptStream = ReceiverStream<Result<v1::KeptContent, Status>>;

    async fn get_kept(
        &self,
        request: Request<v1::KeptFile>,
    ) -> Result<Response<Self::GetKeptStream>, Status> {
        let file = request.into_inner();
        let content = self.kept.open(&file.attempt, &file.kept).await?;
        Ok(Response::new(ReceiverStream::new(content)))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelReply>, Status> {
        let sweep = name("sweep", request.into_inner().sweep)?;
        let reason = "cancelled by a user".into();
        let answer = self.command(Input::Cancel { sweep, reason }).await?;
        let cancelled = answer.trials;
        Ok(Response::new(v1::CancelReply { cancelled }))
    }

    async fn find(
        &self,
        request: Request<v1::FindRequest>,
    ) -> Result<Response<v1::FindReply>, Status> {
        let v1::FindRequest { text, sweep } = request.into_inner();
        let text = String::from(line("text", &text)?);
        let sweep = optional_name("sweep", sweep)?;
        let question = |reply| OwnerRequest::Question(Question::Find { sweep, text, reply });
        ask(&self.owner, question).await.map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveReply>, Status> {
        let v1::RemoveRequest {
            sweep,
            cancel,
            dry_run,
        } = request.into_inner();
        let sweep = optional_name("sweep", sweep)?;
        let stored = self.kept.stored().await?;
        let unused = self.unused(stored, &sweep).await?;
        let bytes = unused.files.iter().map(|file| file.bytes).sum();
        let files = unused.files.len() as u64;
        let mut trials = unused.trials;
        if !dry_run {
            if !sweep.is_empty() {
                trials = self.command(Input::Remove { sweep, cancel }).await?.trials;
            }
            // Another sweep may want some of them by now.
            let unused = self.unused(unused.files, "").await?.files;
            self.kept.remove(unused).await?;
        }
        Ok(Response::new(v1::RemoveReply {
            trials,
            files,
            bytes,
        }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::RetryReply>, Status> {
        let v1::RetryRequest {
            sweep,
            all,
            cells,
            trials,
        } = request.into_inner();
        let sweep = name("sweep", sweep)?;
        let cells = cells
            .iter()
            .map(|cell| line("cells", cell).map(String::from))
            .collect::<Result<Vec<_>, _>>()?;
        let trials = trials.iter().map(|trial| trial.parse::<TrialId>());
        let trials = trials
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Status::invalid_argument(format!("trials: {error}")))?;
        let which = match (all, cells.is_empty(), trials.is_empty()) {
            (false, true, true) => Retry::Failed,
            (true, true, true) => Retry::All,
            (false, false, true) => Retry::Cells(cells),
            (false, true, false) => Retry::Trials(trials),
            _ => {
                return Err(Status::invalid_argument(
                    "`all`, `cells` and `trials` exclude one another",
                ));
            }
        };
        let retried = self.command(Input::Retry { sweep, which }).await?.trials;
        Ok(Response::new(v1::RetryReply { retried }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        let trial = name("trial", request.into_inner().trial)?;
        let question = |reply| OwnerRequest::Question(Question::Explain { trial, reply });
        ask(&self.owner, question).await.map(Response::new)
    }

    async fn get_trial(
        &self,
        request: Request<v1::TrialRequest>,
    ) -> Result<Response<v1::TrialReply>, Status> {
        let v1::TrialRequest { trial, origins } = request.into_inner();
        let trial = name("trial", trial)?;
        let question = |reply| {
            OwnerRequest::Question(Question::Trial {
                trial,
                origins,
                reply,
            })
        };
        ask(&self.owner, question).await.map(Response::new)
    }

    async fn why(
        &self,
        request: Request<v1::WhyRequest>,
    ) -> Result<Response<v1::WhyReply>, Status> {
        let v1::WhyRequest { sweep, cell } = request.into_inner();
        let (sweep, cell) = (name("sweep", sweep)?, String::from(line("cell", &cell)?));
        self.reports.why(sweep, cell).await.map(Response::new)
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainReply>, Status> {
        let v1::DrainRequest { worker, reason } = request.into_inner();
        let name = name("worker", worker)?;
        let reason = if reason.is_empty() {
            "drained by a user".into()
        } else {
            line("reason", &reason)?
        };
        self.command(Input::Drain { name, reason }).await?;
        Ok(Response::new(v1::DrainReply {}))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainReply>, Status> {
        let name = name("host", request.into_inner().host)?;
        self.command(Input::Undrain { name }).await?;
        Ok(Response::new(v1::UndrainReply {}))
    }

    async fn resume_cluster(
        &self,
        _: Request<v1::ResumeClusterRequest>,
    ) -> Result<Response<v1::ResumeClusterReply>, Status> {
        self.command(Input::Launch(LaunchInput::Resume)).await?;
        Ok(Response::new(v1::ResumeClusterReply {}))
    }

    async fn stop_cluster(
        &self,
        request: Request<v1::StopClusterRequest>,
    ) -> Result<Response<v1::StopClusterReply>, Status> {
        let reason = match request.into_inner().reason {
            reason if reason.is_empty() => "stopped by a user".into(),
            reason => line("reason", &reason)?,
        };
        let stop = LaunchInput::Stop { reason };
        self.command(Input::Launch(stop)).await?;
        Ok(Response::new(v1::StopClusterReply {}))
    }

    async fn open_page(
        &self,
        request: Request<v1::OpenPageRequest>,
    ) -> Result<Response<v1::OpenPageReply>, Status> {
        let bearer = request.extensions().get::<Bearer>().cloned();
        let bearer = bearer.ok_or_else(|| Status::internal("nobody has admitted this call"))?;
        let (address, code) = self.logins.code(bearer).ok_or_else(|| {
            Status::failed_precondition(
                "this coordinator serves no page: it was started with `--http off`, or by a command that only changes a \
                 sweep",
            )
        })?;
        let address = address.to_string();
        Ok(Response::new(v1::OpenPageReply { address, code }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenReply>, Status> {
        let id = request.into_inner().id.parse::<GrantId>();
        let id = id.map_err(Status::invalid_argument)?;
        let tokens = self.logins.tokens().ok_or_else(|| {
            Status::failed_precondition("this coordinator accepts everyone, without a token")
        })?;
        let input = Input::RevokeToken { id: id.to_string() };
        self.command(input).await?;
        tokens.revoke(id);
        Ok(Response::new(v1::RevokeTokenReply {}))
    }
}

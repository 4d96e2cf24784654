//! A coordinator that refuses a worker it has welcomed before: for a moment, for a while, for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::v1;
use protocol::v1::fleet_server::{Fleet, FleetServer};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::rig::{Rig, patient};

/// Another server at the coordinator's address, such as a proxy: refuses every stream with one
/// code.
struct Stranger(tonic::Code, Arc<AtomicUsize>);

#[tonic::async_trait]
impl Fleet for Stranger {
    type ConnectStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn connect(
        &self,
        _request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Err(Status::new(self.0, "a proxy's opinion"))
    }

    async fn keep(
        &self,
        _request: Request<Streaming<v1::KeptPiece>>,
    ) -> Result<Response<v1::KeepReply>, Status> {
        Err(Status::new(self.0, "a proxy's opinion"))
    }

    type GetProgramStream = ReceiverStream<Result<v1::ProgramPiece, Status>>;

    async fn get_program(
        &self,
        _request: Request<v1::ProgramRequest>,
    ) -> Result<Response<Self::GetProgramStream>, Status> {
        Err(Status::new(self.0, "a proxy's opinion"))
    }
}

/// Answers on the port until it has refused the given number of streams.
async fn stranger(port: u16, code: Code, refusals: usize) {
    let refused = Arc::new(AtomicUsize::new(0));
    let listener = loop {
        match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let service = FleetServer::new(Stranger(code, refused.clone()));
    let serve = tonic::transport::Server::builder().add_service(service);
    let serve = tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
    patient(async {
        while refused.load(Ordering::Relaxed) < refusals {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    serve.abort();
    // the port is free when the server has ended
    let _ = serve.await;
}

async fn training_worker(rig: &mut Rig, slots: usize) -> usize {
    rig.coordinator().await;
    let worker = rig.worker(slots).await;
    rig.submit().await;
    rig.until(|summary| {
        summary.running == slots as u64
            && summary.running_trials.iter().all(|trial| trial.epoch > 0)
    })
    .await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moments_wrong_answer_costs_no_attempt() {
    let mut rig = Rig::new("epoch-ms=50");
    training_worker(&mut rig, 2).await;
    // HTTP's 403, 404 and 401, as tonic reads them
    for code in [
        Code::PermissionDenied,
        Code::Unimplemented,
        Code::Unauthenticated,
    ] {
        rig.drop_coordinator().await;
        stranger(rig.port(), code, 2).await;
        rig.coordinator().await;
    }
    assert_eq!(rig.complete().await.succeeded, 12);
    assert_eq!(rig.most_attempts().await, 1, "the worker trained on");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_is_read_again_by_workers() {
    let mut rig = Rig::new("epoch-ms=50");
    training_worker(&mut rig, 2).await;
    rig.drop_coordinator().await;
    let text = rig.rotate_token();
    rig.coordinator().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.publish_token(&text);
    assert_eq!(rig.complete().await.succeeded, 12);
    assert_eq!(rig.most_attempts().await, 1, "the worker trained on");
    rig.end().await;
}

/// It is started before there is a coordinator, and the coordinator then comes back at another port
/// with another token.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_comes_back_elsewhere_is_found_by_its_published_place() {
    let mut rig = Rig::new("epoch-ms=50");
    let published = Arc::new(Mutex::new(None));
    rig.worker_that_looks_in(published.clone()).await;
    rig.coordinator().await;
    *published.lock().unwrap() = Some(rig.place());
    rig.submit().await;
    rig.until(|summary| {
        summary.running == 2 && summary.running_trials.iter().all(|trial| trial.epoch > 0)
    })
    .await;
    rig.drop_coordinator().await;
    let before = rig.port();
    while rig.port() == before {
        rig.choose_port();
    }
    rig.rotate_token();
    rig.coordinator().await;
    *published.lock().unwrap() = Some(rig.place());
    assert_eq!(rig.complete().await.succeeded, 12);
    assert_eq!(rig.most_attempts().await, 1, "the worker trained on");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stays_refused_leaves_with_checkpoints() {
    // what the coordinator does not receive is given to other workers when the lease is over
    let mut rig = Rig::new("epoch-ms=200").with_short_lease();
    rig.refused_after(Duration::from_millis(300));
    let worker = training_worker(&mut rig, 2).await;
    rig.drop_coordinator().await;
    rig.rotate_token();
    rig.coordinator().await;
    let error = patient(rig.handle(worker).wait()).await.unwrap_err();
    assert!(
        matches!(&error, worker::Error::Refused { reason } if reason.contains("--token-file")),
        "{error}"
    );
    assert!(rig.checkpoints() > 0, "what it trained is kept");
    rig.worker(2).await;
    assert_eq!(rig.complete().await.succeeded, 12);
    assert_eq!(rig.results().await, Rig::results_of_undisturbed_run().await);
    rig.end().await;
}

//! Reports of a running coordinator.

use super::*;

fn of_width(width: usize) -> Text {
    Text {
        width,
        tables_only: false,
    }
}

/// Returns the output of `Reports` in one piece, and its number of chunks.
async fn report_of(
    reports: &Reports,
    files: ReportFiles,
) -> (v1::ReportHead, String, BTreeMap<String, Vec<u8>>) {
    let mut chunks = reports
        .open("small".to_owned(), of_width(100), files)
        .await
        .unwrap();
    let (mut head, mut text, mut found) = (None, String::new(), BTreeMap::<String, Vec<u8>>::new());
    let mut current = String::new();
    loop {
        let next = chunks.recv().await.expect("it ends with a last chunk");
        match next.unwrap().chunk.unwrap() {
            Chunk::Head(of) => head = Some(of),
            Chunk::Text(piece) => text.push_str(&piece),
            Chunk::File(name) => current = name,
            Chunk::Content(piece) => found.entry(current.clone()).or_default().extend(piece),
            Chunk::End(_) => return (head.unwrap(), text, found),
        }
    }
}

#[tokio::test]
async fn a_report_in_pieces_is_that_of_the_journal() {
    let disk = Disk::default();
    let (messages, owner) = disk.start_with_lease(60_000);
    submit(&messages).await.unwrap().unwrap();
    let reports = Reports::new(messages.clone(), {
        let disk = disk.clone();
        Arc::new(move || Box::new(disk.clone()))
    });
    let mut worker = TaskWorker::new("worker-1-1");
    let complete = async {
        while !report_of(&reports, ReportFiles::None).await.0.complete {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = worker.serve(&messages) => panic!("its stream stays open"),
        () = complete => {}
    }
    let expected = report::report_at(&disk.replay(), &mut disk.clone(), "small", 100).unwrap();
    // Made, kept, and made again for another width in between.
    for _ in 0..2 {
        let (head, text, files) = report_of(&reports, ReportFiles::All).await;
        assert_eq!(
            (head.complete, head.failed_trials),
            (expected.complete, expected.failed_trials)
        );
        assert_eq!(text, expected.text);
        assert!(
            files
                .into_iter()
                .eq(expected.files.iter().cloned().collect::<BTreeMap<_, _>>())
        );
        let (_, _, files) = report_of(&reports, ReportFiles::Json).await;
        assert_eq!(
            files.into_keys().collect::<Vec<_>>(),
            [report::RESULTS_JSON]
        );
        let narrow = reports
            .open("small".to_owned(), of_width(40), ReportFiles::None)
            .await;
        drop(narrow.unwrap());
    }
    let unknown = reports
        .open("no".to_owned(), of_width(100), ReportFiles::None)
        .await
        .unwrap_err();
    assert_eq!(unknown.message(), "no sweep is named `no`; known: small");
    messages.send(OwnerRequest::Stop).await.unwrap();
    owner.await.unwrap().unwrap();
}

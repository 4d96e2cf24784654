//! `deploy/kubernetes/orchestrator.yaml`, read as Kubernetes reads it. No cluster runs it here.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Seconds that a leaving worker waits at most for its coordinator (`worker::Timing`), and as many for
/// checkpoints.
const GRACE_S: u64 = 30;

/// Complaint 10 about launchers: disruptions count as failures, pods are killed at once, and idle
/// ones hold GPUs after the end.
#[test]
fn kubernetes_workers_have_time_to_leave_are_replaced_and_hold_no_gpu_after_the_end() {
    let documents = documents();
    let kinds: Vec<&Value> = documents.iter().map(|document| &document["kind"]).collect();
    let policies = ["NetworkPolicy"; 2];
    assert_eq!(kinds[..3], ["Service", "StatefulSet", "Job"]);
    assert_eq!(kinds[3..], policies);
    let job = &documents[2]["spec"];
    // no work left: the first worker that ends with 0 ends the growth, and the idle ones follow
    assert_eq!(job["completions"], Value::Null);
    let pod = &job["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    let worker = &pod["containers"][0];
    let arguments = worker["args"].as_array().expect("a list");
    let leaves = |argument: &Value| argument.as_str().unwrap().starts_with("--idle-timeout=");
    assert!(arguments.iter().any(leaves), "{arguments:?}");
    assert!(worker["resources"]["limits"]["nvidia.com/gpu"].is_u64());
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    assert!(grace >= Some(GRACE_S), "{grace:?}");
    let rules = json!([
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": worker["name"], "operator": "In", "values": [1]}},
    ]);
    assert_eq!(job["podFailurePolicy"]["rules"], rules);
}

/// Each pod finds what it names: services their pods, mounts their volumes.
#[test]
fn selectors_and_mounts_of_the_kubernetes_manifest_fit() {
    let documents = documents();
    let labels = &documents[1]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(documents[0]["spec"]["selector"], *labels);
    assert_eq!(documents[1]["spec"]["selector"]["matchLabels"], *labels);
    for document in &documents[1..3] {
        let pod = &document["spec"]["template"]["spec"];
        let claims = document["spec"]["volumeClaimTemplates"].as_array();
        let claims = claims
            .into_iter()
            .flatten()
            .map(|claim| &claim["metadata"]["name"]);
        let volumes = pod["volumes"].as_array().expect("a list").iter();
        let volumes: Vec<&Value> = volumes
            .map(|volume| &volume["name"])
            .chain(claims)
            .collect();
        let mounts = pod["containers"][0]["volumeMounts"].as_array();
        for mount in mounts.expect("a list") {
            assert!(volumes.contains(&&mount["name"]), "{mount} of {volumes:?}");
        }
    }
}

/// Pods do not run as root, write to their volumes alone, and have the token of their role.
#[test]
fn pods_are_confined_and_have_a_token_of_their_own() {
    let documents = documents();
    for (document, token) in [
        (&documents[1], "orchestrator-token"),
        (&documents[2], "orchestrator-worker-token"),
    ] {
        let pod = &document["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert!(context["runAsUser"].as_u64() > Some(0));
        // without it, a process that is not root could not read its token
        assert_eq!(context["fsGroup"], context["runAsGroup"]);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0];
        let confined = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], confined);
        let mounts = container["volumeMounts"].as_array().expect("a list");
        assert!(mounts.contains(&json!({"name": "tmp", "mountPath": "/tmp"})));
        let volumes = pod["volumes"].as_array().expect("a list");
        let secret = |volume: &Value| volume["secret"]["secretName"] == token;
        let secret = volumes.iter().find(|volume| secret(volume));
        let mode = &secret.expect("the token's volume")["secret"]["defaultMode"];
        assert_eq!(*mode, json!(0o440), "readable by the group that it runs as");
    }
}

/// Each policy is about the pods of one kind, and the coordinator can be reached at its port.
#[test]
fn no_pod_reaches_a_worker_and_the_coordinator_has_one_open_port() {
    let documents = documents();
    let port = &documents[0]["spec"]["ports"][0]["port"];
    for (pods, policy) in [
        (&documents[1], &documents[3]),
        (&documents[2], &documents[4]),
    ] {
        let labels = &pods["spec"]["template"]["metadata"]["labels"];
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"], *labels);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    }
    let open = json!([{"ports": [{"protocol": "TCP", "port": port}]}]);
    assert_eq!(documents[3]["spec"]["ingress"], open);
    assert_eq!(documents[4]["spec"]["ingress"], Value::Null);
}

fn documents() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/orchestrator.yaml");
    let text = fs::read_to_string(path).expect("the manifest is shipped");
    serde_saphyr::from_multiple(&text).expect("the manifest is YAML")
}

//! The status as one JSON document, the same from `orchestrator status --output json` and from the
//! status page. Fields are added, never renamed; `SCHEMA` rises when one is removed.

use protocol::v1::StatusReply;
use serde_json::Value;

/// Version of the document.
pub const SCHEMA: u32 = 1;

/// Returns the whole document, as in `orchestrator status --output json` and on the status page.
pub fn status(reply: &StatusReply) -> Value {
    let mut document = serde_json::to_value(reply).expect("a status is plain data");
    document["schema"] = SCHEMA.into();
    document
}

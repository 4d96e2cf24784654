//! The hosts file: one host a line, `[user@]host [slots=N] [devices=LIST] [dir=PATH] [data=PATH]
//! [work=PATH]`, with `#` comments.

use std::fmt;
use std::num::NonZeroU32;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Destination for ssh: a name, an alias of the user's ssh configuration, or `user@name`.
    pub address: String,
    pub slots: Option<NonZeroU32>,
    pub devices: Option<String>,
    /// The folder of the unpacked archive there.
    pub dir: Option<String>,
    pub data: Option<String>,
    pub work: Option<String>,
}

impl Host {
    /// Returns the flag of `orchestrator setup` for the libtorch that the devices need.
    pub(super) fn kind_of_libtorch(&self) -> &'static str {
        match self.devices.as_deref() {
            Some("cpu") => "--cpu",
            _ => "",
        }
    }
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct HostError {
    pub line: usize,
    pub problem: String,
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}

/// Reads a hosts file. All lines that are wrong are reported, not only the first.
pub fn parse(text: &str) -> Result<Vec<Host>, Vec<HostError>> {
    let mut hosts: Vec<(usize, Host)> = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let number = index + 1;
        let same = |host: &Host, other: &Host| {
            (&host.address, &host.devices) == (&other.address, &other.devices)
                && (host.dir == other.dir || host.work.is_some() && host.work == other.work)
        };
        let problem = match host(line) {
            Ok(host) => match hosts.iter().find(|(_, other)| same(&host, other)) {
                None => {
                    hosts.push((number, host));
                    continue;
                }
                Some((first, _)) => format!(
                    "{host} is in line {first} already; two workers of one host need different `devices=`, or different `dir=` and `work=`"
                ),
            },
            Err(problem) => problem,
        };
        errors.push(HostError {
            line: number,
            problem,
        });
    }
    if hosts.is_empty() && errors.is_empty() {
        errors.push(HostError {
            line: 1,
            problem: "no host in the file".to_owned(),
        });
    }
    match errors.is_empty() {
        true => Ok(hosts.into_iter().map(|(_, host)| host).collect()),
        false => Err(errors),
    }
}

fn host(line: &str) -> Result<Host, String> {
    let mut words = line.split_whitespace();
    let address = words.next().unwrap_or_default().to_owned();
    // ssh would take it as an option
    if address.starts_with('-') || address.contains('=') {
        return Err(format!("`{address}` is not the name of a host"));
    }
    let mut host = Host {
        address,
        slots: None,
        devices: None,
        dir: None,
        data: None,
        work: None,
    };
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(format!("`{word}` is not KEY=VALUE"));
        };
        let text = match key {
            "slots" => {
                let slots = value
                    .parse()
                    .map_err(|_| format!("`slots={value}` is not a number of slots"))?;
                if host.slots.replace(slots).is_some() {
                    return Err("`slots=` is there twice".to_owned());
                }
                continue;
            }
            "devices" => &mut host.devices,
            "dir" => &mut host.dir,
            "data" => &mut host.data,
            "work" => &mut host.work,
            _ => {
                return Err(format!(
                    "`{key}=` is none of slots=, devices=, dir=, data=, work="
                ));
            }
        };
        if text.replace(value.to_owned()).is_some() {
            return Err(format!("`{key}=` is there twice"));
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_every_form_is_read() {
        let text = "# the lab\nnode1\n\n  alice@node2 slots=4 devices=cuda:0-3 dir=/opt/o data=/data work=/scratch # fast\n\
                    node3 devices=cuda:0\nnode3 devices=cuda:1\n";
        let hosts = parse(text).unwrap();
        let names: Vec<_> = hosts.iter().map(|host| host.address.as_str()).collect();
        assert_eq!(names, ["node1", "alice@node2", "node3", "node3"]);
        let full = &hosts[1];
        assert_eq!(full.slots.map(NonZeroU32::get), Some(4));
        assert_eq!(full.devices.as_deref(), Some("cuda:0-3"));
        assert_eq!(full.dir.as_deref(), Some("/opt/o"));
        assert_eq!(full.data.as_deref(), Some("/data"));
        assert_eq!(full.work.as_deref(), Some("/scratch"));
        assert_eq!(hosts[0].dir, None);
    }

    #[test]
    fn every_wrong_line_is_named_with_its_number() {
        let text = "node1\n-oProxyCommand=evil\nnode2 slots=none\nnode2 speed=9\nnode1\nnode4 dir=\nnode5 data=a data=b\nslots=2\n\
                    node6 dir=/a work=/w\nnode6 dir=/b work=/w\n";
        let errors: Vec<_> = parse(text)
            .unwrap_err()
            .iter()
            .map(HostError::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "line 2: `-oProxyCommand=evil` is not the name of a host",
                "line 3: `slots=none` is not a number of slots",
                "line 4: `speed=` is none of slots=, devices=, dir=, data=, work=",
                "line 5: node1 is in line 1 already; two workers of one host need different `devices=`, or different `dir=` and `work=`",
                "line 6: `dir=` is not KEY=VALUE",
                "line 7: `data=` is there twice",
                "line 8: `slots=2` is not the name of a host",
                "line 10: node6 is in line 9 already; two workers of one host need different `devices=`, or different `dir=` and `work=`",
            ]
        );
        assert_eq!(
            parse("# none\n").unwrap_err()[0].to_string(),
            "line 1: no host in the file"
        );
    }
}

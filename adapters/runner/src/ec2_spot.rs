//! Poller for the interruption notice of EC2 spot instances.

use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::lock::LockDir;
use crate::preemption_file::PreemptionNotice;

const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Number of consecutive failures after which the metadata service counts as absent.
const ERRORS_MAX: u32 = 5;
const SERVICE: &str = "http://169.254.169.254";

/// PreemptionNotice in the format of the metadata service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct InstanceAction {
    action: String,
    time: String,
}

/// Polls the metadata service. Writes each new notice to the lock directory, for `--list` and for
/// the other runners on this VM, and calls `report`. Returns if the service is unreachable or
/// `report` returns false. LONGSHORE_IMDS_URL sets another service URL.
pub(crate) fn watch(
    locks: &LockDir,
    report: &dyn Fn(&PreemptionNotice) -> bool,
    say: &dyn Fn(&str),
) {
    let base = std::env::var("LONGSHORE_IMDS_URL").unwrap_or_else(|_| SERVICE.to_owned());
    watch_at(&base, POLL_INTERVAL, locks, report, say);
}

fn watch_at(
    base: &str,
    interval: Duration,
    locks: &LockDir,
    report: &dyn Fn(&PreemptionNotice) -> bool,
    say: &dyn Fn(&str),
) {
    let agent: Agent = Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(2)))
        .build()
        .into();
    let mut errors = 0;
    let mut known: Option<PreemptionNotice> = None;
    loop {
        match query(&agent, base) {
            Ok(found) => {
                errors = 0;
                let notice = found.map(|found| PreemptionNotice::new(&found.action, &found.time));
                if let Some(notice) = notice.filter(|notice| known.as_ref() != Some(notice)) {
                    say(&notice.text());
                    if let Err(why) = notice.write(locks) {
                        say(&format!(
                            "the notice cannot be stored for the dispatcher: {why}"
                        ));
                    }
                    if !report(&notice) {
                        return;
                    }
                    known = Some(notice);
                }
            }
            Err(error) => {
                errors += 1;
                if errors > ERRORS_MAX {
                    return say(&format!(
                        "no longer watching for spot interruptions: {error}"
                    ));
                }
            }
        }
        std::thread::sleep(interval);
    }
}

fn query(agent: &Agent, base: &str) -> Result<Option<InstanceAction>, ureq::Error> {
    let token = agent
        .put(format!("{base}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let mut token = token.send_empty()?;
    if !token.status().is_success() {
        return Err(ureq::Error::StatusCode(token.status().as_u16()));
    }
    let token = token
        .body_mut()
        .with_config()
        .limit(4096)
        .read_to_string()?;
    let notice = agent.get(format!("{base}/latest/meta-data/spot/instance-action"));
    let mut notice = notice
        .header("X-aws-ec2-metadata-token", token.trim())
        .call()?;
    match notice.status().as_u16() {
        404 => Ok(None),
        200 => {
            let text = notice
                .body_mut()
                .with_config()
                .limit(4096)
                .read_to_string()?;
            serde_json::from_str(&text)
                .map(Some)
                .map_err(|e| ureq::Error::Io(e.into()))
        }
        status => Err(ureq::Error::StatusCode(status)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const NOW: Duration = Duration::from_millis(1);

    /// Starts a metadata service with the given responses, in order. Returns the URL and the
    /// received requests.
    fn service(answers: Vec<(u16, &'static str)>) -> (String, Receiver<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (asked, heard) = channel();
        std::thread::spawn(move || {
            for ((status, body), stream) in answers.into_iter().zip(listener.incoming()) {
                serve(stream.unwrap(), status, body, &asked);
            }
        });
        (base, heard)
    }

    fn serve(mut stream: TcpStream, status: u16, body: &str, asked: &Sender<Vec<String>>) {
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> = lines
            .map_while(Result::ok)
            .take_while(|l| !l.is_empty())
            .collect();
        asked.send(head).unwrap();
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close");
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
    }

    #[test]
    fn notice_is_fetched_with_token() -> std::io::Result<()> {
        const NOTICE: &str = r#"{"action":"terminate","time":"2033-05-18T03:33:20Z"}"#;
        let (base, heard) = service(vec![(200, "tok\n"), (404, ""), (200, "tok"), (200, NOTICE)]);
        let dir = tempfile::tempdir()?;
        let locks = LockDir::new(dir.path());
        let reported = RefCell::new(Vec::new());
        let report = |notice: &PreemptionNotice| {
            reported.borrow_mut().push(notice.clone());
            false
        };
        watch_at(&base, NOW, &locks, &report, &|_| {});
        let notice = PreemptionNotice::new("terminate", "2033-05-18T03:33:20Z");
        assert_eq!(notice.at, 2_000_000_000);
        assert_eq!(*reported.borrow(), std::slice::from_ref(&notice));
        assert_eq!(PreemptionNotice::read(&locks), Some(notice));
        let asked: Vec<Vec<String>> = heard.iter().collect();
        let first: Vec<&str> = asked.iter().map(|head| head[0].as_str()).collect();
        let (put, get) = (
            "PUT /latest/api/token HTTP/1.1",
            "GET /latest/meta-data/spot/instance-action HTTP/1.1",
        );
        assert_eq!(first, [put, get, put, get]);
        let has = |head: &[String], line: &str| head.iter().any(|l| l.eq_ignore_ascii_case(line));
        assert!(has(&asked[0], "x-aws-ec2-metadata-token-ttl-seconds: 60"));
        assert!(has(&asked[1], "x-aws-ec2-metadata-token: tok"));
        Ok(())
    }

    #[test]
    fn poller_ends_after_six_failures() -> std::io::Result<()> {
        let failure = (500, "");
        let mut answers = vec![failure; 5];
        // A success resets the count of failures.
        answers.extend([(200, "tok"), (404, "")]);
        answers.extend([failure; 6]);
        let (base, heard) = service(answers);
        let dir = tempfile::tempdir()?;
        let locks = LockDir::new(dir.path());
        let logged = RefCell::new(Vec::new());
        let say = |text: &str| logged.borrow_mut().push(text.to_owned());
        watch_at(&base, NOW, &locks, &|_| panic!("there is no notice"), &say);
        assert_eq!(heard.iter().count(), 13);
        assert_eq!(logged.borrow().len(), 1);
        assert!(logged.borrow()[0].starts_with("no longer watching"));
        assert_eq!(PreemptionNotice::read(&locks), None);
        Ok(())
    }
}

//! `imn up` in namespaces of its own, with a small disk and a loopback interface that nobody else has. Whatever runs
//! in it, and the disk, ends with the test, however that ends.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use imn_testkit::{Signal, wait_until};
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;

use crate::network;

pub(crate) const PORT: u16 = 8080;
const NOBODY: &str = "65534";

pub(crate) struct Cell {
    /// Its child is the first process within, and the others end with that.
    keeper: Child,
    /// Where the small disk is mounted, within the cell.
    disk: tempfile::TempDir,
    /// Where `imn up` writes what it says, outside of the small disk.
    said: tempfile::TempDir,
    up: Option<Child>,
}

impl Cell {
    pub(crate) fn new(size: &str) -> Self {
        let disk = tempfile::Builder::new().prefix("imn-cell-").tempdir().unwrap();
        let prepare = "ip link set lo up && mount -t tmpfs -o mode=1777,size=$1 imn-cell \"$2\" && echo ready && \
                       exec sleep infinity";
        let mut keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--mount-proc", "--fork"])
            .args(["--kill-child=KILL", "sh", "-c", prepare, "sh", size])
            .arg(disk.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self { keeper, disk, said: tempfile::tempdir().unwrap(), up: None }
    }

    fn state(&self) -> PathBuf {
        self.disk.path().join("state")
    }

    /// A path of the cell, as it is seen from outside.
    fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.inmate())).join(inside)
    }

    /// The first process within, by its pid outside.
    fn inmate(&self) -> u32 {
        child_of(self.keeper.id())
    }

    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--net", "--pid", "--target", &self.inmate().to_string(), "--"])
            .arg(program);
        command
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = self.enter(words[0]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IMN_")) {
            command.env_remove(name);
        }
        command.args(&words[1..]).env("IMN_STATE_DIR", self.state()).stdin(Stdio::null());
        command
    }

    fn ours(as_nobody: bool) -> Vec<String> {
        let program = network::program().display().to_string();
        let drop = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set=-all"];
        let drop = drop.map(str::to_owned).into_iter().filter(|_| as_nobody);
        drop.chain([program]).collect()
    }

    fn run(&self, as_nobody: bool, args: &[&str]) -> Output {
        let ours = Self::ours(as_nobody);
        let words: Vec<&str> = ours.iter().map(String::as_str).chain(args.iter().copied()).collect();
        self.program(&words).output().unwrap()
    }

    pub(crate) fn imn(&self, args: &[&str]) -> Output {
        self.run(false, args)
    }

    pub(crate) fn imn_as_nobody(&self, args: &[&str]) -> Output {
        self.run(true, args)
    }

    pub(crate) fn ping_group_range(&self, range: &str) {
        let set = format!("echo {range} > /proc/sys/net/ipv4/ping_group_range");
        assert!(self.enter("sh").args(["-c", &set]).status().unwrap().success());
    }

    pub(crate) fn up(&mut self) {
        self.start(false);
    }

    pub(crate) fn up_as_nobody(&mut self) {
        self.start(true);
    }

    fn start(&mut self, as_nobody: bool) {
        let ours = Self::ours(as_nobody);
        let words: Vec<&str> = ours.iter().map(String::as_str).chain(["up"]).collect();
        let file = |name| {
            fs::OpenOptions::new().create(true).append(true).open(self.said.path().join(name)).unwrap()
        };
        let mut command = self.program(&words);
        command.env("IMN_LOG", "info").stdout(file("out")).stderr(file("err"));
        let mut up = command.spawn().unwrap();
        let ready = || {
            fs::read_to_string(self.said.path().join("out")).unwrap().lines().any(|l| l.starts_with("ready"))
        };
        let started = wait_until("imn up to be ready", Duration::from_mins(1), || {
            assert!(up.try_wait().unwrap().is_none(), "imn up ended: {}", self.log());
            ready().then_some(())
        });
        self.up = Some(up);
        started.unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    /// SIGTERM; it must end with status 0.
    pub(crate) fn stop(&mut self) {
        let mut up = self.up.take().unwrap();
        // `nsenter` stays outside and waits.
        signal(child_of(up.id()), Signal::SIGTERM);
        let status = wait_until("imn up to end", Duration::from_secs(30), || up.try_wait().unwrap()).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        fs::write(self.said.path().join("out"), "").unwrap();
    }

    /// What `imn up` and its parts, and the modules, have logged.
    pub(crate) fn log(&self) -> String {
        let mut text = fs::read_to_string(self.said.path().join("err")).unwrap_or_default();
        let modules = self.seen(&self.agent_state().join("log"));
        for log in fs::read_dir(modules).into_iter().flatten().filter_map(Result::ok) {
            text.push_str(&String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()));
        }
        text
    }

    /// A request by curl; status 0 when there is no answer.
    fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let connect = fs::read_to_string(self.seen(&self.state().join("connect.json"))).unwrap();
        let connect: Value = serde_json::from_str(&connect).unwrap();
        let key = format!("Authorization: Bearer {}", connect["api_key"].as_str().unwrap());
        let mut curl = self.enter("curl");
        curl.args(["-sS", "-m", "20", "-w", "\n%{http_code}", "-X", method, "-H", &key]);
        if let Some(body) = body {
            curl.args(["--data-binary", &body.to_string()]);
        }
        let done = curl.arg(format!("{}{path}", connect["http_url"].as_str().unwrap())).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let Some((body, status)) = text.rsplit_once('\n') else { return (0, Value::Null) };
        (status.trim().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.curl("GET", path, None)
    }

    pub(crate) fn try_post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.curl("POST", path, Some(body))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) {
        let (status, answer) = self.try_post(path, body);
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
    }

    pub(crate) fn wait_get<T>(
        &self,
        path: &str,
        deadline: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> T {
        self.wait(path, deadline, |status, body| if status == 200 { wanted(body) } else { None })
    }

    pub(crate) fn wait_readyz<T>(&self, deadline: Duration, wanted: impl Fn(u16, &Value) -> Option<T>) -> T {
        self.wait("/readyz", deadline, wanted)
    }

    fn wait<T>(&self, path: &str, deadline: Duration, wanted: impl Fn(u16, &Value) -> Option<T>) -> T {
        let mut last = (0, Value::Null);
        let found = wait_until(format!("GET {path}"), deadline, || {
            last = self.get(path);
            wanted(last.0, &last.1)
        });
        found.unwrap_or_else(|error| panic!("{error}; last answer: {last:?}; {}", self.log()))
    }

    /// Where the agent keeps what it has.
    fn agent_state(&self) -> PathBuf {
        self.state().join("agents/local")
    }

    /// Gives the agent a small disk of its own, before it is started.
    pub(crate) fn agent_disk(&self, size: &str) {
        let mount = "mkdir -p \"$2\" && mount -t tmpfs -o mode=700,size=$1 imn-agent \"$2\"";
        let mut enter = self.enter("sh");
        let done = enter.args(["-c", mount, "sh", size]).arg(self.agent_state()).status().unwrap();
        assert!(done.success(), "{done}");
    }

    /// Leaves no byte free on the small disk.
    pub(crate) fn fill(&self) {
        self.fill_at(self.disk.path());
    }

    /// Leaves no byte free on that of the agent.
    pub(crate) fn fill_agent_disk(&self) {
        self.fill_at(&self.agent_state());
    }

    fn fill_at(&self, directory: &Path) {
        let path = self.seen(&directory.join("fill"));
        let mut file = fs::File::create(path).unwrap();
        for chunk in [1 << 20, 1 << 12, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; chunk]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.seen(&self.disk.path().join("fill"))).unwrap();
    }

    pub(crate) fn free_agent_disk(&self) {
        fs::remove_file(self.seen(&self.agent_state().join("fill"))).unwrap();
    }

    /// Runs a Python script of the tests within; its arguments are the state directory and `args`.
    pub(crate) fn python(&self, script: &str, args: &[&str], deadline: Duration) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        let python = network::python().unwrap();
        let mut child =
            self.enter(python.to_str().unwrap()).arg(path).arg(self.state()).args(args).spawn().unwrap();
        let ended = wait_until(script, deadline, || child.try_wait().unwrap());
        if ended.is_err() {
            child.kill().unwrap();
        }
        assert!(child.wait().unwrap().success(), "{script}");
    }

    /// The process of the cell whose program is called so.
    pub(crate) fn pid_of(&self, program: &str) -> u32 {
        let is = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
            Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|name| name == program)
        };
        let find = || self.inmates().into_iter().find(is);
        wait_until(format!("a process {program}"), Duration::from_secs(30), find).unwrap()
    }

    /// The process of the cell that is our program in this role.
    pub(crate) fn pid_of_role(&self, role: &str) -> u32 {
        let program = network::program().display().to_string();
        let is = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            words.next() == Some(program.as_bytes()) && words.next() == Some(role.as_bytes())
        };
        let find = || self.inmates().into_iter().find(is);
        wait_until(format!("a process {role}"), Duration::from_secs(30), find).unwrap()
    }

    /// The process that has this pid within, by its pid outside.
    pub(crate) fn outside(&self, inside: u32) -> u32 {
        let is = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            pids.split_whitespace().next_back().and_then(|pid| pid.parse().ok()) == Some(inside)
        };
        self.inmates().into_iter().find(is).unwrap()
    }

    /// All processes of the cell, by their pids outside.
    fn inmates(&self) -> Vec<u32> {
        let space = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|meta| meta.ino()).ok();
        let own = space(self.inmate());
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| own.is_some() && space(*pid) == own).collect()
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.inmate() as i32), Signal::SIGKILL);
        let _ = self.keeper.wait();
        if let Some(mut up) = self.up.take() {
            let _ = up.wait();
        }
    }
}

//! gobgpd and bird in a laboratory: they announce, withdraw and hijack; what we read is what they say themselves.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    net::IpAddr,
    path::Path,
    sync::mpsc,
    time::Duration,
};

use imn_probe::bgp::{Event, Filter, SessionState, Update, bmp, mrt, open};
use imn_testkit::{Lab, Node, Process, Program, require_root, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_secs(15);
const LAB: &str = r#"
    name = "bgp"
    hosts = ["origin", "collector", "hijacker"]
    links = [{ between = ["origin", "collector"] }, { between = ["hijacker", "collector"] }]
    echoes = false
"#;

/// Per peer and prefix: path, next hop, communities.
type State = BTreeMap<(IpAddr, String), (String, String, BTreeSet<String>)>;

fn neighbor(address: &str, asn: u32, passive: bool) -> String {
    format!(
        r#"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{address}"
    peer-as = {asn}
  [neighbors.transport.config]
    passive-mode = {passive}
  [neighbors.timers.config]
    connect-retry = 5
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#
    )
}

fn gobgpd(node: &Node, directory: &Path, asn: u32, more: &str) -> Process {
    let path = directory.join(format!("{}.toml", node.name()));
    let global = format!("[global.config]\n  as = {asn}\n  router-id = \"{}\"\n", node.v4().unwrap());
    fs::write(&path, global + more).unwrap();
    let program = node.program("gobgpd").package("gobgpd").args(["--pprof-disable", "-f"]).arg(path);
    let program = program.current_dir(directory);
    program.spawn().unwrap()
}

fn gobgp(node: &Node, args: &str) -> String {
    node.program("gobgp").args(args.split_whitespace()).run_ok(STEP).unwrap()
}

fn birdc(node: &Node, directory: &Path, args: &[&str]) -> String {
    let socket = directory.join("bird.ctl");
    node.program("birdc").arg("-s").arg(socket).args(args).run_ok(STEP).unwrap()
}

/// What the collector itself says that its peers told it.
fn adjacent(collector: &Node, peers: &[IpAddr]) -> State {
    let mut state = State::new();
    for peer in peers {
        for family in ["ipv4", "ipv6"] {
            // It fails for a peer that is down, which has told nothing.
            let args = ["neighbor", &peer.to_string(), "adj-in", "-a", family, "-j"];
            let run = collector.program("gobgp").args(args).run(STEP).unwrap();
            let table: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
            for (prefix, paths) in table.as_object().into_iter().flatten() {
                for path in paths.as_array().into_iter().flatten() {
                    state.insert((*peer, prefix.clone()), attributes(path));
                }
            }
        }
    }
    state
}

fn attributes(path: &Value) -> (String, String, BTreeSet<String>) {
    let (mut as_path, mut hop, mut communities) = (String::new(), String::new(), BTreeSet::new());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for attribute in list(&path["attrs"]) {
        match attribute["type"].as_u64().unwrap() {
            2 => {
                let asns =
                    list(&attribute["as_paths"]).into_iter().flat_map(|segment| list(&segment["asns"]));
                as_path = asns.map(|asn| asn.to_string()).collect::<Vec<_>>().join(" ");
            }
            3 | 14 => attribute["nexthop"].as_str().unwrap().clone_into(&mut hop),
            8 => communities.extend(list(&attribute["communities"]).iter().map(|community| {
                match community.as_u64().unwrap() {
                    0xffff_ff01 => "no-export".to_owned(),
                    number => format!("{}:{}", number >> 16, number & 0xffff),
                }
            })),
            16 => communities.extend(
                list(&attribute["value"])
                    .iter()
                    .map(|value| format!("rt:{}", value["value"].as_str().unwrap())),
            ),
            32 => communities.extend(
                list(&attribute["value"])
                    .iter()
                    .map(|value| format!("{}:{}:{}", value["ASN"], value["LocalData1"], value["LocalData2"])),
            ),
            _ => {}
        }
    }
    (as_path, hop, communities)
}

fn apply(state: &mut State, updates: &[Update]) {
    for update in updates {
        let key = (update.peer_address, update.prefix.to_string());
        match &update.route {
            Some(route) => {
                let hop = route.next_hop.map(|hop| hop.to_canonical().to_string()).unwrap_or_default();
                state.insert(key, (route.as_path(), hop, route.communities().collect()));
            }
            None => drop(state.remove(&key)),
        }
    }
}

/// Updates as bgpdump, an independent reader, prints them: time, kind, peer, prefix, path, next hop.
fn bgpdump(path: &Path) -> Vec<String> {
    let program = Program::new("bgpdump").package("bgpdump").arg("-m").arg(path);
    // It fails on a file that is not there yet.
    let lines = program.run_ok(STEP).unwrap_or_default();
    let fields = |line: &str| {
        let f: Vec<&str> = line.split('|').collect();
        let kind = if f[2] == "B" { "A" } else { f[2] };
        let mut line = format!("{} {kind} {} {} {}", f[1], f[3], f[4], f[5]);
        if kind == "A" {
            // It has this for a next hop that is not told.
            let _ = write!(line, " {} via {}", f[6], f[8].replace("255.255.255.255", ""));
        }
        line
    };
    lines.lines().filter(|line| !line.contains("|STATE|")).map(fields).collect()
}

fn ours(path: &Path) -> Vec<String> {
    let source = path.to_str().unwrap().parse().unwrap();
    let mut reader = mrt::Reader::new(open(&source).unwrap(), "lab");
    let (mut updates, mut faults) = (Vec::new(), Vec::new());
    while let Some(read) = reader.read(&Filter::everything(), &mut updates) {
        faults.extend(read.err().map(|fault| fault.to_string()));
    }
    let line = |update: &Update| {
        let seconds = update.time.as_nanos() / 1_000_000_000;
        let (kind, peer, asn) = (update.kind(), update.peer_address, update.peer_asn);
        let mut line = format!("{seconds} {kind} {peer} {asn} {}", update.prefix);
        if let Some(route) = &update.route {
            let hop = route.next_hop.map(|hop| hop.to_string()).unwrap_or_default();
            let _ = write!(line, " {} via {hop}", route.as_path());
        }
        line
    };
    updates.iter().map(line).chain(faults).collect()
}

#[test]
fn what_daemons_announce_withdraw_and_hijack_is_what_we_read() {
    if !require_root("what_daemons_announce_withdraw_and_hijack_is_what_we_read") {
        return;
    }
    let lab = Lab::from_toml(LAB).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let (origin, collector, hijacker) =
        (lab.node("origin").unwrap(), lab.node("collector").unwrap(), lab.node("hijacker").unwrap());
    let (origin_ip, hijacker_ip) = (IpAddr::from(origin.v4().unwrap()), IpAddr::from(hijacker.v4().unwrap()));
    // The collector's addresses toward each: the other end of the link.
    let toward = |link: usize| collector.addresses()[2 * link];

    // Our station, on the collector's own loopback.
    let (tell, told) = mpsc::channel();
    let (port_is, port) = mpsc::channel();
    let station = collector.clone();
    let listening = std::thread::spawn(move || {
        station
            .enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let config = bmp::Config::new("127.0.0.1:0".parse().unwrap(), Filter::everything());
                    let listener = bmp::Listener::bind(config).unwrap();
                    port_is.send(listener.local_addr().unwrap().port()).unwrap();
                    let (sender, mut events) = tokio::sync::mpsc::channel(64);
                    tokio::select! {
                        () = listener.run(&sender) => {}
                        () = async { while let Some(event) = events.recv().await {
                            if tell.send(event).is_err() { return; }
                        } } => {}
                    }
                });
            })
            .unwrap();
    });
    let port = port.recv_timeout(STEP).unwrap();

    // gobgpd reads a file name as a layout of times: a digit in it becomes a day or an hour, so it gets no directory.
    let updates_file = dir.join("updates.mrt");
    let more = format!(
        "{}{}\n[[mrt-dump]]\n  [mrt-dump.config]\n    dump-type = \"updates\"\n    file-name = \"updates.mrt\"\n\
         [[bmp-servers]]\n  [bmp-servers.config]\n    address = \"127.0.0.1\"\n    port = {port}\n    \
         route-monitoring-policy = \"pre-policy\"\n",
        neighbor(&origin_ip.to_string(), 64_500, true),
        neighbor(&hijacker_ip.to_string(), 64_666, true),
    );
    let _collector = gobgpd(collector, dir, 64_510, &more);
    let _origin = gobgpd(origin, dir, 64_500, &neighbor(&toward(0).to_string(), 64_510, false));
    let table_file = dir.join("table.mrt");
    let messages_file = dir.join("messages.mrt");
    let conf = format!(
        "router id {hijacker_ip};\nmrtdump \"{}\";\nprotocol device {{}}\n\
         protocol static hijack {{ disabled; ipv4; route 203.0.113.0/24 blackhole; route 203.0.113.128/25 blackhole; }}\n\
         protocol bgp collector {{ local as 64666; neighbor {} as 64510; connect retry time 2; mrtdump {{ messages }};\n\
         ipv4 {{ import all; export where source = RTS_STATIC; }};\n\
         ipv6 {{ import all; export none; }}; }}\n",
        messages_file.display(),
        toward(1)
    );
    fs::write(dir.join("bird.conf"), conf).unwrap();
    let mut bird = hijacker
        .program("bird")
        .package("bird2")
        .args(["-f", "-c"])
        .arg(dir.join("bird.conf"))
        .arg("-s")
        .arg(dir.join("bird.ctl"))
        .spawn()
        .unwrap();
    let up = || {
        let run = collector.program("gobgp").args(["neighbor"]).run(STEP).ok()?;
        (run.stdout.matches("Establ").count() == 2).then_some(())
    };
    wait_until("both sessions", SOON, up).unwrap();

    let mut state = State::new();
    let mut downs = Vec::new();
    let mut follow = |what: &str, done: &dyn Fn(&State) -> bool| {
        wait_until(what, SOON, || {
            for event in told.try_iter() {
                match event {
                    Event::Updates(updates) => apply(&mut state, &updates),
                    Event::Fault(fault) => panic!("{fault}"),
                    Event::Session(session) => {
                        if let (SessionState::Down(reason), Some((peer, _))) = (session.state, session.peer) {
                            downs.push((peer, reason));
                            state.retain(|(of, _), _| *of != peer);
                        }
                    }
                }
            }
            (done(&state) && state == adjacent(collector, &[origin_ip, hijacker_ip])).then_some(())
        })
        .unwrap_or_else(|error| {
            panic!("{error}\n{state:#?}\n{:#?}", adjacent(collector, &[origin_ip, hijacker_ip]))
        });
        downs.clone()
    };
    let has = |peer: IpAddr, prefix: &str| {
        let key = (peer, prefix.to_owned());
        move |state: &State| state.contains_key(&key)
    };

    gobgp(origin, "global rib add 203.0.113.0/24 community 64500:100,no-export large-community 64500:1:2");
    gobgp(origin, "global rib add -a ipv6 2001:db8:5::/48");
    gobgp(origin, "global rib add 198.51.100.0/24 aspath 65001,4200000001 rt 64500:7");
    follow("the announcements", &|state| state.len() == 3);
    birdc(hijacker, dir, &["enable", "hijack"]);
    follow("the hijack", &has(hijacker_ip, "203.0.113.128/25"));
    let dumped = format!("mrt dump table \"master4\" to \"{}\"", table_file.display());
    let said = birdc(hijacker, dir, &[&dumped]);
    wait_until(format!("the dump: {said}"), SOON, || table_file.exists().then_some(())).unwrap();
    gobgp(origin, "global rib del 203.0.113.0/24");
    follow("the withdrawal", &|state| !has(origin_ip, "203.0.113.0/24")(state));
    birdc(hijacker, dir, &["disable", "hijack"]);
    follow("the end of the hijack", &|state| !has(hijacker_ip, "203.0.113.0/24")(state));
    birdc(hijacker, dir, &["enable", "hijack"]);
    follow("the hijack again", &has(hijacker_ip, "203.0.113.0/24"));
    bird.kill9();
    let downs = follow("the end of the hijacker", &|state| state.len() == 2);
    assert!(downs.iter().any(|(peer, _)| *peer == hijacker_ip), "{downs:?}");

    // Files of both daemons, against a reader that is not ours.
    for (path, least) in [(&updates_file, 8), (&table_file, 3), (&messages_file, 4)] {
        let mut read = (Vec::new(), Vec::new());
        let whole = wait_until(format!("{} as bgpdump reads it", path.display()), SOON, || {
            read = (ours(path), bgpdump(path));
            (read.1.len() >= least && read.0 == read.1).then_some(())
        });
        whole.unwrap_or_else(|error| panic!("{error}\nours {:#?}\nbgpdump {:#?}", read.0, read.1));
    }
    drop(told);
    gobgp(collector, &format!("neighbor {origin_ip} softresetin"));
    gobgp(origin, "global rib add 203.0.113.0/24");
    wait_until("our station to end", SOON, || listening.is_finished().then_some(())).unwrap();
}

//! Every bound of rooms, exactly: people, sockets, rooms, creations, and how far a room can be extended.

use std::net::{SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

use super::{Member, Rooms, command, ephemeral, in_short, invalid, refused, sleep_ms};
use crate::daemon::{Daemon, PATIENCE, Socket, eventually};

#[test]
fn a_room_has_a_hundred_people_and_not_one_more() {
    let daemon = ephemeral(&[]);
    let first = daemon.found(json!({}));
    let mut members: Vec<Member> = (1..100).map(|n| daemon.visit(&first.room, &format!("p{n}"))).collect();
    assert_eq!(in_short(&daemon.room(&first.room)["users"]).len(), 100);
    let mut outside = daemon.enter();
    let join = json!({ "type": "session:join", "sessionId": first.room });
    for _ in 0..3 {
        refused(&mut outside, join.clone(), "full", "Room is full");
    }
    // Whoever lost his line keeps his place, and it is his.
    let lost = members.pop().unwrap();
    let ticket = lost.return_ticket();
    lost.hang_up();
    eventually(|| daemon.people(&first.room)[99] == "(p99)");
    refused(&mut outside, join.clone(), "full", "Room is full");
    members.push(Member::new(daemon.enter(), ticket));
    // A second line of a person is no person.
    daemon.come_back(&members[0]);
    // Whoever leaves gives his place to the next.
    let mut leaving = members.remove(0);
    leaving.leave();
    let last = Member::new(outside, join.clone());
    assert_eq!(last.name, "User 101");
    refused(&mut leaving.socket, join, "full", "Room is full");
    // And all hear what one does.
    members[5].socket.send(command("timer:start"));
    for member in &mut members {
        assert_eq!(member.socket.skip_to("timer:state")["state"]["revision"], 2);
    }
}

#[test]
fn a_person_has_five_sockets_in_his_room_and_not_one_more() {
    let daemon = ephemeral(&[]);
    let anna = daemon.found(json!({ "name": "Anna" }));
    let ticket = anna.return_ticket();
    let mut sockets: Vec<Member> = (0..4).map(|_| daemon.come_back(&anna)).collect();
    let mut sixth = daemon.enter();
    for _ in 0..2 {
        sixth.send(ticket.clone());
        let answer = sixth.recv();
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("full")), "{answer}");
    }
    // It is free to be somebody else, or somewhere else.
    let mut bert = Member::new(sixth, json!({ "type": "session:join", "sessionId": anna.room, "name": "Bert" }));
    assert_eq!(daemon.people(&anna.room), ["Anna", "Bert"]);
    sockets.pop().unwrap().hang_up();
    let mut again = daemon.enter();
    eventually(|| {
        again.send(ticket.clone());
        let answer = again.recv();
        sleep_ms(20);
        answer["type"] == "session:joined"
    });
    bert.control("timer:start");
    for socket in sockets.iter_mut().map(|member| &mut member.socket).chain([&mut again]) {
        assert_eq!(socket.skip_to("timer:state")["by"], "Bert");
    }
}

#[test]
fn there_is_room_for_a_thousand_rooms_and_not_for_one_more() {
    let daemon = ephemeral(&[]);
    // A socket says a hundred things at once: many have some rooms made each, one after the other.
    let mut sockets: Vec<Socket> = (0..25).map(|_| daemon.enter()).collect();
    let mut ids: Vec<String> = Vec::new();
    for round in 0..40 {
        for socket in &mut sockets {
            if round > 0 {
                socket.inner.write(Message::text(command("session:leave").to_string())).unwrap();
            }
            socket.send(command("session:create"));
        }
        for socket in &mut sockets {
            let joined = socket.expect("session:joined");
            ids.push(joined["sessionId"].as_str().unwrap().to_owned());
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    let mut outside = daemon.enter();
    refused(&mut outside, command("session:create"), "full", "Maximum room limit reached");
    // To join one is still possible.
    drop(Member::new(daemon.enter(), json!({ "type": "session:join", "sessionId": ids[500] })));
    for socket in &mut sockets {
        socket.send(command("ping"));
        socket.skip_to("pong");
    }
}

/// A socket from this address of the loopback.
fn enter_from(daemon: &Daemon, address: &str) -> Socket {
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&descriptor, &SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    connect(&descriptor, &daemon.address).unwrap();
    let stream: TcpStream = descriptor.into();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("ws://{}/ws/rooms", daemon.address).into_client_request().unwrap();
    Socket { inner: tungstenite::client(request, stream).unwrap().0 }
}

/// Creates a room and leaves it; the answer.
fn create(socket: &mut Socket) -> Value {
    socket.send(command("session:create"));
    let answer = socket.recv();
    if answer["type"] == "session:joined" {
        socket.send(command("session:leave"));
    }
    answer
}

#[track_caller]
fn assert_limited(answer: &Value, most_s: u64) {
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("limited")), "{answer}");
    let text = answer["message"].as_str().unwrap();
    let wait = text.strip_prefix("Too many rooms created: try again in ").and_then(|rest| rest.strip_suffix(" s"));
    let wait: u64 = wait.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!((1..=most_s).contains(&wait), "{text}");
}

#[test]
fn an_address_creates_thirty_rooms_a_minute_and_not_one_more() {
    let daemon = Daemon::ephemeral(&[]);
    let mut sockets = [daemon.enter(), daemon.enter(), daemon.enter()];
    // What is refused for another reason does not count.
    for _ in 0..5 {
        invalid(&mut sockets[0], json!({ "type": "session:create", "duration": 0 }), "duration");
    }
    let mut last = String::new();
    for n in 0..30 {
        let answer = create(&mut sockets[n % 3]);
        last = answer["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    }
    for socket in &mut sockets {
        assert_limited(&create(socket), 60);
        assert_limited(&create(socket), 60);
    }
    assert_limited(&create(&mut daemon.enter()), 60);
    // Others are others, and to join is no creation.
    assert_eq!(create(&mut enter_from(&daemon, "127.0.0.2"))["type"], "session:joined");
    let message = json!({ "type": "session:join", "sessionId": last });
    let [first, ..] = sockets;
    Member::new(first, message).control("timer:start");
}

#[test]
fn the_rate_of_creations_is_the_operators_and_a_window_ends() {
    let daemon = Daemon::ephemeral(&["--rate-rooms", "2/second"]);
    let mut socket = daemon.enter();
    let kinds = [(); 3].map(|()| create(&mut socket));
    assert_eq!((&kinds[0]["type"], &kinds[1]["type"]), (&json!("session:joined"), &json!("session:joined")));
    assert_limited(&kinds[2], 1);
    sleep_ms(1050);
    assert_eq!(create(&mut socket)["type"], "session:joined");
    // Whoever comes through the proxy counts for himself.
    let daemon = Daemon::ephemeral(&["--rate-rooms", "1/hour", "--trusted-proxy", "127.0.0.1"]);
    for address in ["192.0.2.1", "192.0.2.2"] {
        let mut socket = daemon.open("/ws/rooms", &[("X-Forwarded-For", address)]);
        assert_eq!(create(&mut socket)["type"], "session:joined");
        assert_limited(&create(&mut socket), 3600);
    }
    let daemon = Daemon::ephemeral(&["--rate-rooms", "off"]);
    let mut socket = daemon.enter();
    for _ in 0..40 {
        assert_eq!(create(&mut socket)["type"], "session:joined");
    }
}

/// The total of a room is at most 366 days: of that a person can press a good part in a minute, and a team the rest.
#[test]
fn a_room_is_extended_to_366_days_and_not_one_second_more() {
    const TOTAL_S: u64 = 366 * 86_400;
    const EACH: u64 = 90;
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 86_400 }));
    anna.control("timer:start");
    anna.control("timer:pause");
    let room = anna.room.clone();
    // In another room she does not have to listen.
    anna.socket.send(command("session:leave"));
    let extend = json!({ "type": "timer:extend", "seconds": 3600 }).to_string();
    let mut duration = 86_400;
    while duration + 3600 <= TOTAL_S {
        let mut member = daemon.visit(&room, "Somebody");
        let times = EACH.min((TOTAL_S - duration) / 3600);
        for _ in 0..times {
            member.socket.inner.write(Message::text(extend.as_str())).unwrap();
        }
        member.socket.inner.flush().unwrap();
        for _ in 0..times {
            duration += 3600;
            // The one before may not have left yet when this one comes.
            assert_eq!(member.socket.skip_to("timer:state")["state"]["duration"], duration);
        }
        member.socket.send(command("session:leave"));
    }
    assert_eq!(duration, TOTAL_S);
    let mut member = daemon.visit(&room, "Somebody");
    for seconds in [1, 3600] {
        let answer = member.ask(json!({ "type": "timer:extend", "seconds": seconds }));
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("invalid")), "{answer}");
    }
    assert_eq!(member.control("timer:reset")["duration"], 86_400);
    member.control("timer:start");
    assert_eq!(member.press(json!({ "type": "timer:extend", "seconds": 1 }))["duration"], 86_401);
}

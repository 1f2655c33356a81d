//! BGP sources: against real daemons in a laboratory, a WebSocket server, and damaged bytes.

mod daemon;
mod damage;
mod live;
mod rate;
mod sample;

//! A few sockets of a pod's namespace, made ahead.
//!
//! Entering a namespace and leaving it costs more than making a socket; so each visit makes several.

use std::{io, sync::Mutex};

use socket2::{Domain, Socket};

use super::{NamespaceHandle, SocketPurpose, new_stream_socket};

/// Ready sockets of one namespace and one purpose.
#[derive(Debug)]
pub struct SocketStock {
    purpose: SocketPurpose,
    v4: Mutex<Vec<Socket>>,
    v6: Mutex<Vec<Socket>>,
}

impl SocketStock {
    /// Starts empty: a pod that never connects costs nothing.
    pub fn new(purpose: SocketPurpose) -> Self {
        SocketStock {
            purpose,
            v4: Mutex::default(),
            v6: Mutex::default(),
        }
    }

    /// A fresh socket of the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered or the kernel makes no socket.
    pub fn take(&self, namespace: &NamespaceHandle, domain: Domain) -> io::Result<Socket> {
        let shelf = if domain == Domain::IPV6 {
            &self.v6
        } else {
            &self.v4
        };
        if let Some(socket) = pop(shelf) {
            return Ok(socket);
        }
        let (first, spare) = namespace.run_in(|| -> io::Result<(Socket, Vec<Socket>)> {
            let first = new_stream_socket(domain, self.purpose)?;
            // A shortage (descriptors, memory) must not fail the one socket that is needed now.
            let spare = (1..BATCH_LEN)
                .map_while(|_| new_stream_socket(domain, self.purpose).ok())
                .collect();
            Ok((first, spare))
        })??;
        let mut shelf = shelf
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if shelf.len() < BATCH_LEN {
            shelf.extend(spare);
        }
        Ok(first)
    }
}

fn pop(shelf: &Mutex<Vec<Socket>>) -> Option<Socket> {
    shelf
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .pop()
}

/// Sockets made per visit; a socket that is not connected costs about 2 KiB of kernel memory.
const BATCH_LEN: usize = 8;

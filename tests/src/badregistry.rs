//! A registry that misbehaves as a test wants: a function from request to response, on a loopback port, over std::net.
//!
//! ```no_run
//! use d_tests::badregistry::{BadRegistry, Response};
//! let bad = BadRegistry::start(|request| match request.path.as_str() {
//!     "/v2/" => Response::ok("{}"),
//!     _ => Response::status(404),
//! });
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request, its body read (and thrown away).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// Names in lower case, in the order of their coming.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers; `Content-Length` is added unless it is here.
    pub headers: Vec<(String, String)>,
    /// The body (not sent for HEAD).
    pub body: Vec<u8>,
    /// How often it is sent, one after the other.
    pub times: usize,
    /// Cuts the connection after that many bytes of the body.
    pub cut: Option<usize>,
    /// Whether the body's length is announced; else its end is that of the connection.
    pub announced: bool,
    /// Stalls for so long before the body (and before the cut).
    pub stall: Duration,
}

impl Response {
    /// An empty answer with a status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            times: 1,
            cut: None,
            announced: true,
            stall: Duration::ZERO,
        }
    }

    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Cuts the connection after that many bytes of the body.
    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// Sends no Content-Length, and ends the body by closing the connection.
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self.cut = Some(self.body.len());
        self
    }

    /// Sends the body so often, one after the other: a large one that needs no memory.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Waits so long before the body.
    pub fn stall(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// The running server; it takes no further connection once dropped.
pub struct BadRegistry {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl BadRegistry {
    /// Serves what `handler` answers, a thread for each connection.
    ///
    /// # Panics
    /// If there is no loopback socket to be had.
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let server = Self { port, seen: Arc::default(), stop: Arc::default() };
        let (seen, stop, handler) =
            (server.seen.clone(), server.stop.clone(), Arc::<Handler>::from(Box::new(handler) as Box<Handler>));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, handler) = (seen.clone(), handler.clone());
                thread::spawn(move || _ = serve(stream, &seen, &*handler));
            }
        });
        server
    }

    /// Its address, `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to an image of it: `127.0.0.1:PORT/NAME`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// How many requests so far had `part` in their path.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.path.contains(part)).count()
    }
}

impl Drop for BadRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, handler: &Handler) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader)? {
        seen.lock().expect("no holder panics").push(request.clone());
        let response = handler(&request);
        let mut head = format!("HTTP/1.1 {} Answer\r\n", response.status);
        for (name, value) in &response.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if response.announced && !response.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length")) {
            head += &format!("Content-Length: {}\r\n", response.body.len() * response.times);
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        if !response.stall.is_zero() {
            stream.flush()?;
            thread::sleep(response.stall);
        }
        let body: &[u8] = if request.method == "HEAD" { &[] } else { &response.body };
        match response.cut {
            Some(after) => {
                stream.write_all(&body[..after.min(body.len())])?;
                return stream.shutdown(Shutdown::Both);
            }
            None => (0..response.times).try_for_each(|_| stream.write_all(body))?,
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let request = Request { method, path, headers };
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    Ok(Some(request))
}

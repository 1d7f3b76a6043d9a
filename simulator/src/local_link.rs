//! The local link between a phone and a car, which stands in for BLE or NFC: a TCP port of the car on loopback.
//!
//! Each message is its length (two bytes, big-endian, at most [`MAX_MESSAGE`]) and one CBOR array:
//! phone `["hello", token, delegated token?]`, car `["nonce", 32 bytes]`, phone `["use", function number, signature]`,
//! car `["permitted"]` or `["refused", reason]`. The signature is over nonce, SHA-256 of the token and the function's
//! number (one byte). A refusal leaves the conversation open; a message that is none ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::{Function, KeyId, VehicleId};
use cardea::token::Keyset;
use ciborium::Value;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::car::Control;
use crate::proof::{self, Dialogue, ProofDenial, Proven};
use crate::unit::Act;

/// Two tokens at their largest and what stands around them.
pub const MAX_MESSAGE: usize = 2_304;
/// Phones at one car at once; others wait to be let in.
const MAX_PHONES: usize = 4;
/// A phone that says nothing for so long is sent away.
const SILENCE: Duration = Duration::from_secs(15);
/// And so is one that goes on talking: others may wait for its place.
const CONVERSATION: Duration = Duration::from_secs(60);
/// After a failed accept, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("the local link: {0}")]
    Io(#[from] std::io::Error),
    #[error("the local link: a message of {0} bytes")]
    TooLong(usize),
    #[error("the local link: not a message of this protocol")]
    Malformed,
    #[error("the local link: the other side fell silent")]
    Silent,
}

/// A car's ear for phones. Dropping it closes the port.
pub struct LocalLink {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LocalLink {
    pub(crate) async fn listen(
        address: SocketAddr,
        vehicle_id: VehicleId,
        keyset: Option<Keyset>,
        car: mpsc::Sender<Control>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let places = Arc::new(Semaphore::new(MAX_PHONES));
        let task = tokio::spawn(async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let Ok((phone, _)) = listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let dialogue = Dialogue::new(vehicle_id.clone(), keyset.clone());
                let car = car.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(CONVERSATION, talk(phone, dialogue, &car)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%error, "a phone has left"),
                        Err(_) => tracing::debug!("a phone was sent away after a minute"),
                    }
                    drop(place);
                });
            }
        });
        Ok(Self { address, task })
    }
}

async fn talk(mut phone: TcpStream, mut dialogue: Dialogue, car: &mpsc::Sender<Control>) -> Result<(), LocalError> {
    let (clock, random) = (Clock::start(), SystemRandom::new());
    // A second use on one nonce is told under the key of the first.
    let mut shown = None;
    while let Some(message) = read(&mut phone).await? {
        let answer = match Said::read(message) {
            None => {
                let answer = not_believed(car, dialogue.shown(), None, ProofDenial::Malformed).await;
                write(&mut phone, answer).await?;
                return Err(LocalError::Malformed);
            }
            Some(Said::Hello { token, delegated }) => {
                let mut nonce = [0; 32];
                random.fill(&mut nonce).map_err(|_| std::io::Error::other("no randomness"))?;
                match dialogue.hello(clock.now(), &token, delegated.as_deref(), nonce) {
                    Ok(nonce) => Value::Array(vec!["nonce".into(), Value::Bytes(nonce.to_vec())]),
                    Err(denial) => not_believed(car, proof::claimed(&token), None, denial).await,
                }
            }
            Some(Said::Use { function, signature }) => {
                let key_id = dialogue.shown().or(shown);
                shown = key_id;
                match dialogue.prove(clock.now(), function, &signature) {
                    Ok(proven) => ask_car(car, proven, function).await,
                    Err(denial) => not_believed(car, key_id, Some(function), denial).await,
                }
            }
        };
        write(&mut phone, answer).await?;
    }
    Ok(())
}

async fn ask_car(car: &mpsc::Sender<Control>, proven: Proven, function: Function) -> Value {
    let (reply, answer) = oneshot::channel();
    let asked = car.send(Control::Act(Act::UseProven(proven, function), reply)).await;
    match (asked, answer.await) {
        (Ok(()), Ok(Ok(()))) => Value::Array(vec!["permitted".into()]),
        (Ok(()), Ok(Err(denial))) => refused(&denial.to_string()),
        // The car has lost its power.
        (_, _) => refused("unavailable"),
    }
}

/// The gateway hears of it too, once there is a link.
async fn not_believed(
    car: &mpsc::Sender<Control>,
    key_id: Option<KeyId>,
    function: Option<Function>,
    denial: ProofDenial,
) -> Value {
    let reason = denial.reason();
    let (reply, noted) = oneshot::channel();
    // Without power there is nobody to tell it to.
    if car.send(Control::Act(Act::PhoneRefused { key_id, function, reason }, reply)).await.is_ok() {
        let _ = noted.await;
    }
    refused(reason)
}

fn refused(reason: &str) -> Value {
    Value::Array(vec!["refused".into(), reason.into()])
}

/// What a phone may say.
enum Said {
    Hello { token: Vec<u8>, delegated: Option<Vec<u8>> },
    Use { function: Function, signature: Vec<u8> },
}

impl Said {
    fn read(message: Value) -> Option<Self> {
        let mut parts = message.into_array().ok()?.into_iter();
        let kind = parts.next()?.into_text().ok()?;
        let said = match kind.as_str() {
            "hello" => {
                let token = parts.next()?.into_bytes().ok()?;
                let delegated = parts.next().map(Value::into_bytes).transpose().ok()?;
                Self::Hello { token, delegated }
            }
            "use" => {
                let number = i128::from(parts.next()?.into_integer().ok()?);
                let function = Function::ALL.into_iter().find(|function| *function as i128 == number)?;
                Self::Use { function, signature: parts.next()?.into_bytes().ok()? }
            }
            _ => return None,
        };
        parts.next().is_none().then_some(said)
    }
}

/// The phone's side: presents the token, with what was delegated from it where the phone holds that, signs the nonce with
/// `sign`, asks. The car's refusal comes back as its word.
pub async fn present(
    car: SocketAddr,
    token: &[u8],
    delegated: Option<&[u8]>,
    function: Function,
    sign: impl FnOnce(&[u8; 32]) -> Vec<u8>,
) -> Result<Result<(), String>, LocalError> {
    let mut link = TcpStream::connect(car).await?;
    let mut hello = vec!["hello".into(), Value::Bytes(token.to_vec())];
    hello.extend(delegated.map(|delegated| Value::Bytes(delegated.to_vec())));
    write(&mut link, Value::Array(hello)).await?;
    let nonce = match answer(&mut link).await? {
        Answer::Nonce(nonce) => nonce,
        Answer::Refused(reason) => return Ok(Err(reason)),
        Answer::Permitted => return Err(LocalError::Malformed),
    };
    let use_it = vec!["use".into(), Value::from(function as u8), Value::Bytes(sign(&nonce))];
    write(&mut link, Value::Array(use_it)).await?;
    match answer(&mut link).await? {
        Answer::Permitted => Ok(Ok(())),
        Answer::Refused(reason) => Ok(Err(reason)),
        Answer::Nonce(_) => Err(LocalError::Malformed),
    }
}

enum Answer {
    Nonce([u8; 32]),
    Permitted,
    Refused(String),
}

async fn answer(link: &mut TcpStream) -> Result<Answer, LocalError> {
    let message = read(link).await?.ok_or(LocalError::Silent)?;
    let parts = message.into_array().map_err(|_| LocalError::Malformed)?;
    match parts.as_slice() {
        [Value::Text(kind)] if kind == "permitted" => Ok(Answer::Permitted),
        [Value::Text(kind), Value::Text(reason)] if kind == "refused" => Ok(Answer::Refused(reason.clone())),
        [Value::Text(kind), Value::Bytes(nonce)] if kind == "nonce" => {
            nonce.as_slice().try_into().map(Answer::Nonce).map_err(|_| LocalError::Malformed)
        }
        _ => Err(LocalError::Malformed),
    }
}

/// `None` at the end of the conversation.
async fn read(link: &mut TcpStream) -> Result<Option<Value>, LocalError> {
    let reading = async {
        let mut head = [0; 2];
        if link.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        link.read_exact(&mut head[1..]).await?;
        let length = usize::from(u16::from_be_bytes(head));
        if length > MAX_MESSAGE {
            return Err(LocalError::TooLong(length));
        }
        let mut bytes = vec![0; length];
        link.read_exact(&mut bytes).await?;
        let mut rest = bytes.as_slice();
        // An array in an array in an array is no message, and must not cost a stack.
        let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, 4).map_err(|_| LocalError::Malformed)?;
        if rest.is_empty() { Ok(Some(value)) } else { Err(LocalError::Malformed) }
    };
    tokio::time::timeout(SILENCE, reading).await.unwrap_or(Err(LocalError::Silent))
}

async fn write(link: &mut TcpStream, message: Value) -> Result<(), LocalError> {
    let mut bytes = vec![0; 2];
    ciborium::into_writer(&message, &mut bytes).map_err(|_| LocalError::Malformed)?;
    let length = u16::try_from(bytes.len() - 2).map_err(|_| LocalError::TooLong(bytes.len() - 2))?;
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    Ok(link.write_all(&bytes).await?)
}

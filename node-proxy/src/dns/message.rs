//! DNS messages: which bytes are a question that we take, and how an answer is fitted to its transport.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, Record},
    serialize::binary::{BinDecodable, BinDecoder},
};
use tulle_model::Protocol;

use super::zone::{Lookup, Zone};

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram; what does not fit is cut, with TC set.
    Udp,
    /// Framed by two bytes of length.
    Tcp,
}

impl Transport {
    /// Its number in an IP header.
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Transport::Udp => Protocol::Udp.number(),
            Transport::Tcp => Protocol::Tcp.number(),
        }
    }
}

/// A question that can be answered or passed on.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The message as it was parsed.
    message: Message,
    /// Its only question.
    query: Query,
}

/// Why bytes are not a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not even a header, or an answer: whoever sent it cannot use a reply (and two servers must not talk for ever).
    Drop,
    /// The reply says what was wrong.
    Reply(ResponseCode),
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// A [`Refusal`], for which [`refuse`] makes the reply.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let header = bytes.get(..HEADER_LEN).ok_or(Refusal::Drop)?;
        let [_, _, flags, _, count_high, count_low, ..] = *header else {
            return Err(Refusal::Drop);
        };
        if flags & FLAG_RESPONSE != 0 {
            return Err(Refusal::Drop);
        }
        if flags & OPCODE_MASK != 0 {
            return Err(Refusal::Reply(ResponseCode::NotImp));
        }
        // Before the parser allocates room for as many questions as the header claims.
        if (count_high, count_low) != (0, 1) || bytes.len() > QUERY_LEN_MAX {
            return Err(Refusal::Reply(ResponseCode::FormErr));
        }
        let malformed = Refusal::Reply(ResponseCode::FormErr);
        let message = Message::from_vec(bytes).map_err(|_| malformed)?;
        let query = message.queries.first().cloned().ok_or(malformed)?;
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Err(Refusal::Reply(ResponseCode::BADVERS));
        }
        if query.query_class() != DNSClass::IN {
            return Err(Refusal::Reply(ResponseCode::Refused));
        }
        Ok(Question { message, query })
    }

    /// What is asked.
    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    /// The id that the answer must bear.
    pub(crate) fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// How many bytes of answer the client takes.
    pub(crate) fn answer_len_max(&self, transport: Transport) -> usize {
        match transport {
            Transport::Udp => usize::from(self.message.max_payload().min(UDP_PAYLOAD_MAX)),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// The answer from the mesh view; `None` if somebody else must be asked.
    pub(crate) fn answer(&self, lookup: Lookup, transport: Transport) -> Option<Vec<u8>> {
        let mut answer = self.reply(ResponseCode::NoError);
        answer.metadata.authoritative = true;
        match lookup {
            Lookup::NotOurs | Lookup::Elsewhere { .. } => return None,
            Lookup::Records {
                answers,
                additionals,
            } => {
                answer.answers = answers;
                answer.additionals = additionals;
            }
            Lookup::NoData => answer.authorities.extend(Zone::authority()),
            Lookup::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.authorities.extend(Zone::authority());
            }
        }
        Some(fit(answer, self.answer_len_max(transport)))
    }

    /// The same question about another name, to be asked of another resolver; and its bytes.
    pub(crate) fn about(&self, target: Name) -> (Question, Vec<u8>) {
        let mut query = self.query.clone();
        query.set_name(target);
        let mut message = Message::new(self.id(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.message.metadata.checking_disabled;
        message.add_query(query.clone());
        if self.message.edns.is_some() {
            message.set_edns(our_edns());
        }
        let bytes = encode(&message);
        (Question { message, query }, bytes)
    }

    /// The answer to this question made of `aliases` and what another resolver said of the name that they lead to.
    pub(crate) fn answer_behind(
        &self,
        aliases: Vec<Record>,
        answer: &[u8],
        transport: Transport,
    ) -> Vec<u8> {
        let Ok(behind) = Message::from_vec(answer) else {
            return self.failure(ResponseCode::ServFail);
        };
        let mut whole = self.reply(behind.metadata.response_code);
        whole.metadata.truncation = behind.metadata.truncation;
        whole.answers = aliases;
        whole.answers.extend(behind.answers);
        whole.authorities = behind.authorities;
        fit(whole, self.answer_len_max(transport))
    }

    /// An answer that only says that something went wrong.
    pub(crate) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        encode(&self.reply(code))
    }

    /// An answer that sends the client to TCP.
    pub(crate) fn truncated(&self) -> Vec<u8> {
        let mut answer = self.reply(ResponseCode::NoError);
        answer.metadata.truncation = true;
        encode(&answer)
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::response(self.id(), OpCode::Query);
        reply.metadata.recursion_desired = self.message.metadata.recursion_desired;
        reply.metadata.checking_disabled = self.message.metadata.checking_disabled;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = code;
        reply.add_query(self.query.clone());
        if self.message.edns.is_some() {
            reply.set_edns(our_edns());
        }
        reply
    }
}

/// The reply to bytes that are no question; `None` if there must be none.
///
/// **Invariant:** every reply bears the id of the bytes (test `a_refusal_bears_the_id`).
pub(crate) fn refuse(bytes: &[u8], refusal: Refusal) -> Option<Vec<u8>> {
    let Refusal::Reply(code) = refusal else {
        return None;
    };
    let [high, low, flags, ..] = *bytes.get(..HEADER_LEN)? else {
        return None;
    };
    let op_code = OpCode::from_u8((flags & OPCODE_MASK) >> OPCODE_SHIFT);
    let mut reply = Message::new(
        u16::from_be_bytes([high, low]),
        MessageType::Response,
        op_code,
    );
    reply.metadata.recursion_desired = flags & FLAG_RECURSION_DESIRED != 0;
    reply.metadata.response_code = code;
    if code.high() > 0 {
        // Such a code has bits that only an OPT record can carry.
        reply.set_edns(our_edns());
    }
    Some(encode(&reply))
}

/// Makes a message as short as `len_max`: first without the additional records, then with fewer answers and TC set.
fn fit(mut message: Message, len_max: usize) -> Vec<u8> {
    // A message beyond 64 KiB cannot even be encoded; that is too long as well.
    let encode_short =
        |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= len_max);
    if let Some(bytes) = encode_short(&message) {
        return bytes;
    }
    message.additionals.clear();
    if let Some(bytes) = encode_short(&message) {
        return bytes;
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let mut best = encode(&message);
    // The most answers that fit: more than `fitting` of them, at most `limit`.
    let (mut fitting, mut limit) = (0, answers.len());
    while fitting < limit {
        let middle = fitting + (limit - fitting).div_ceil(2);
        message.answers = answers.iter().take(middle).cloned().collect();
        match encode_short(&message) {
            Some(bytes) => (best, fitting) = (bytes, middle),
            None => limit = middle - 1,
        }
    }
    best
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_else(|error| {
        tracing::warn!(%error, "an answer cannot be encoded");
        Vec::new()
    })
}

fn our_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX);
    edns
}

/// Whether an answer of an upstream belongs to this question: same id, same question, and an answer at all.
pub(crate) fn answers_question(question: &Question, id: u16, bytes: &[u8]) -> bool {
    let Some([high, low, flags, _, count_high, count_low, ..]) = bytes.get(..HEADER_LEN) else {
        return false;
    };
    if u16::from_be_bytes([*high, *low]) != id || flags & FLAG_RESPONSE == 0 {
        return false;
    }
    match (count_high, count_low) {
        // Some servers leave the question out of an error.
        (0, 0) => bytes.get(3).is_some_and(|flags| flags & RCODE_MASK != 0),
        (0, 1) => {
            let mut decoder = BinDecoder::new(bytes);
            if Header::read(&mut decoder).is_err() {
                return false;
            }
            let asked = Message::read_queries(&mut decoder, 1);
            asked.is_ok_and(|asked| asked.first() == Some(&question.query))
        }
        _ => false,
    }
}

/// The answer code of an upstream's message.
pub(crate) fn response_code(bytes: &[u8]) -> ResponseCode {
    ResponseCode::from_low(bytes.get(3).map_or(0, |flags| flags & RCODE_MASK))
}

/// Writes another id into a message.
pub(crate) fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// RFC 1035 §4.1.1.
const HEADER_LEN: usize = 12;
const FLAG_RESPONSE: u8 = 0x80;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const OPCODE_MASK: u8 = 0x78;
const OPCODE_SHIFT: u8 = 3;
const RCODE_MASK: u8 = 0x0f;
/// A question is a name of 255 bytes and a few options; more is a mistake or an attack.
pub(crate) const QUERY_LEN_MAX: usize = 4096;
/// Our datagrams cross a loopback device only, but a client may relay them.
const UDP_PAYLOAD_MAX: u16 = 4096;

#[cfg(test)]
mod tests;

//! Who a client is, and whom it trusts: what is kept ready for every new connection.

#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod pem;
#[cfg(feature = "sasl")]
pub(crate) mod sasl;
#[cfg(feature = "sasl")]
mod scram;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "sasl")]
mod token;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::config::Address;
use crate::config::{Sasl, Security};
use crate::{Error, ErrorKind, Result};

/// A stream to a broker, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A client's [`Security`] with its files read.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    #[cfg(feature = "tls")]
    tls: Option<std::sync::Arc<files::Files>>,
    sasl: Option<Sasl>,
}

impl Access {
    /// Reads the files that there are.
    pub(crate) fn prepare(security: &Security) -> Result<Self> {
        if let Some(why) = security.missing_feature() {
            return Err(Error::new(ErrorKind::Config, why));
        }
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: security.tls.as_ref().map(files::Files::new).transpose()?.map(std::sync::Arc::new),
            sasl: security.sasl.clone(),
        })
    }

    /// Who the client is, if it says so.
    pub(crate) fn sasl(&self) -> Option<&Sasl> {
        self.sasl.as_ref()
    }

    /// Encrypts a stream, if the client does so.
    pub(crate) async fn secure(&self, stream: TcpStream, address: &Address) -> Result<Box<dyn Stream>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.connector().connect(stream, address).await?));
        }
        let _ = address;
        Ok(Box::new(stream))
    }
}

/// What a fault of a stream means, if TLS says it.
pub(crate) fn explain(fault: &std::io::Error) -> Option<Error> {
    #[cfg(feature = "tls")]
    return tls::explain(fault);
    #[cfg(not(feature = "tls"))]
    {
        let _ = fault;
        None
    }
}

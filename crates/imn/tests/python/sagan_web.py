"""Reads Atlas results of a URL and of its certificate by ripe.atlas.sagan. Arguments: file with the results, file with
the certificate."""

import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from ripe.atlas.sagan import HttpResult, Result, SslResult

_, results, certificate = sys.argv
http, ssl = (Result.get(json.dumps(result), on_error=Result.ACTION_FAIL, on_malformation=Result.ACTION_FAIL)
             for result in json.load(open(results)))
assert isinstance(http, HttpResult) and isinstance(ssl, SslResult)
answer = http.responses[0]
assert (http.method, answer.code, answer.version, answer.body_size) == ("GET", 200, "2", 6), vars(answer)
assert answer.destination_address == answer.source_address == "127.0.0.1" and answer.af == 4
assert 0 < answer.response_time < 10_000 and answer.head_size > 50
own = x509.load_pem_x509_certificate(open(certificate, "rb").read())
digest = own.fingerprint(hashes.SHA256()).hex().upper()
assert ssl.certificates[0].checksum_sha256.replace(":", "") == digest
# Its `has_expired` is true of a certificate that is valid.
assert ssl.certificates[0].cn == "www.example.net" and ssl.certificates[0].valid_until.year == 2099
assert (ssl.version, ssl.destination_address) == ("1.3", "127.0.0.1") and ssl.port > 1024
assert 0 < ssl.time_to_connect < ssl.response_time

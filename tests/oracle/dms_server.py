"""DMS's table statistics on this machine: what AWS's own description of the service takes and gives, by botocore.

Answers DescribeTableStatistics from a JSON file of table statistics, which is read anew for each request. A request
whose signature is not the one that botocore makes of the same request, or whose form is not the service's, is refused
in the form in which DMS refuses. Says `port N` when it listens.

    dms_server.py STATISTICS_FILE ACCESS_KEY SECRET_KEY REGION
"""

import datetime
import http.server
import json
import re
import sys

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.session
import botocore.validate

OPERATION = "DescribeTableStatistics"


class Refused(Exception):
    """An answer of a code, with what it says."""


def signature_of(handler, body, key, secret, region):
    """The signature that botocore makes of this request."""
    found = re.search(r"SignedHeaders=([^,]+)", handler.headers.get("Authorization", ""))
    if not found:
        raise Refused("MissingAuthenticationTokenException", "it is not signed")
    signed = found.group(1).split(";")
    if not {"host", "x-amz-date", "x-amz-target", "content-type"} <= set(signed):
        raise Refused("IncompleteSignatureException", f"only {signed} are signed")
    headers = {name: handler.headers[name] for name in signed if not name.startswith("x-amz-date")}
    request = botocore.awsrequest.AWSRequest("POST", f"http://{handler.headers['Host']}/", headers, body)
    request.context["timestamp"] = handler.headers["X-Amz-Date"]
    auth = botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret), "dms", region)
    request.headers["X-Amz-Date"] = handler.headers["X-Amz-Date"]
    canonical = auth.canonical_request(request)
    return auth.signature(auth.string_to_sign(request, canonical), request)


def statistics(request, tables):
    """The tables that the request's filters let through."""
    wanted = {filter["Name"]: filter["Values"] for filter in request.get("Filters", [])}
    named = {"schema-name": "SchemaName", "table-name": "TableName", "table-state": "TableState"}
    return [table for table in tables if all(table[named[name]] in values for name, values in wanted.items())]


def answer(handler, arguments):
    file, key, secret, region = arguments
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    service = botocore.session.get_session().get_service_model("dms")
    target, version = service.metadata["targetPrefix"], service.metadata["jsonVersion"]
    if handler.headers["X-Amz-Target"] != f"{target}.{OPERATION}":
        raise Refused("UnknownOperationException", str(handler.headers["X-Amz-Target"]))
    if handler.headers["Content-Type"] != f"application/x-amz-json-{version}":
        raise Refused("SerializationException", str(handler.headers["Content-Type"]))
    if signature_of(handler, body, key, secret, region) not in handler.headers["Authorization"]:
        raise Refused("InvalidSignatureException", "the signature is another")
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.strptime(
        handler.headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z"
    )
    if abs(age.total_seconds()) > 300:
        raise Refused("InvalidSignatureException", f"it was signed {age} ago")
    request = json.loads(body)
    wrong = botocore.validate.ParamValidator().validate(request, service.operation_model(OPERATION).input_shape)
    if wrong.has_errors():
        raise Refused("InvalidParameterValueException", wrong.generate_report())
    with open(file, encoding="utf-8") as text:
        tables = json.load(text)
    if isinstance(tables, str):
        raise Refused(tables, "so the test wants it")
    known = service.shape_for("TableStatistics").members
    assert all(name in known for table in tables for name in table), "no statistics of DMS"
    return {"ReplicationTaskArn": request["ReplicationTaskArn"], "TableStatistics": statistics(request, tables)}


class Handler(http.server.BaseHTTPRequestHandler):
    arguments = ()

    def do_POST(self):
        try:
            status, said = 200, answer(self, self.arguments)
        except Refused as refused:
            status, said = 400, {"__type": refused.args[0], "message": refused.args[1]}
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def serve(arguments):
    Handler.arguments = arguments
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("port", server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1:])

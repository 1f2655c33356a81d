-- Where a job stands in the trace of whoever submitted it: the header traceparent of W3C Trace Context.

ALTER TABLE job ADD COLUMN traceparent TEXT;

# The service: `retinaflow serve` with the packages that grade, without TensorFlow, at the pinned versions. docs/service.md has
# the commands. It runs as an ordinary user on a read-only file system.
ARG BASE=docker.io/library/python:3.12-slim-bookworm
FROM ${BASE}
COPY envs/requirements-predict.txt envs/requirements-dicom.txt envs/requirements-serve.txt /pins/
RUN python3 -m pip install --no-cache-dir --no-compile --require-hashes --requirement /pins/requirements-predict.txt
RUN python3 -m pip install --no-cache-dir --no-compile --require-hashes --requirement /pins/requirements-dicom.txt
# The pins of the extra `serve` have those of the whole workflow, too. These are the ones of the service alone.
RUN python3 -c "import re, sys; blocks = re.split(r'\n(?=\S)', open('/pins/requirements-serve.txt').read()); print('\n'.join(block for block in blocks if re.split('==', block)[0] in sys.argv[1:]))" \
    annotated-doc annotated-types anyio click fastapi h11 idna opentelemetry-api pydantic pydantic-core python-multipart \
    starlette typing-inspection uvicorn > /pins/service.txt \
    && python3 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --requirement /pins/service.txt
COPY pyproject.toml README.md /source/
COPY workflow /source/workflow
RUN python3 -m pip install --no-cache-dir "setuptools>=77" \
    && python3 -m pip install --no-cache-dir --no-compile --no-index --no-deps --no-build-isolation /source \
    && rm -rf /source /pins
USER 10001:10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
# Other computers reach the container, so the service needs a token: RETINAFLOW_TOKEN.
ENTRYPOINT ["retinaflow", "serve", "--host", "0.0.0.0", "--model", "/bundle"]

# A device that compose.yaml starts next to the host: sshd, sh and Python are all that edgeq needs there.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends openssh-server && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/sh runner && mkdir -p /run/sshd /home/runner/.ssh
EXPOSE 22
CMD ["sh", "-c", "install -o runner -m 600 /run/secrets/key /home/runner/.ssh/authorized_keys && exec /usr/sbin/sshd -D -e"]

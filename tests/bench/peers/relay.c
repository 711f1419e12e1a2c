/* relay PORT BACKEND_PORT: relays TCP on loopback, one thread, epoll, until it is ended.
 *
 * The least that a relay in user space can do: one read and one write for what arrives. What a side does not take is
 * kept, and the other is not read before it is gone. There is no half-close: the end of one side ends the other.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_AT_ONCE = 256 << 10, EVENTS = 256 };

struct side {
	int fd;
	struct side *other;
	/* What `fd` has not taken yet. */
	char *unsent;
	size_t unsent_size;
	/* Freed behind the events that may still point at it. */
	struct side *next_dead;
};

static int epoll;
static struct side *dead;
static char buffer[READ_AT_ONCE];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in loopback(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static void await(struct side *side)
{
	/* A side is read while the other takes everything. */
	struct epoll_event event = {
		.events = (side->other->unsent_size ? 0 : EPOLLIN) | (side->unsent_size ? EPOLLOUT : 0),
		.data.ptr = side,
	};
	epoll_ctl(epoll, EPOLL_CTL_MOD, side->fd, &event);
}

static struct side *add(int fd)
{
	struct side *side = calloc(1, sizeof *side);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = side};
	int on = 1;
	side->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	return side;
}

static void end(struct side *side)
{
	struct side *both[] = {side, side->other};
	if (side->fd < 0)
		return;
	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		both[i]->fd = -1;
		free(both[i]->unsent);
		both[i]->next_dead = dead;
		dead = both[i];
	}
}

static void accept_one(int listener, const struct sockaddr_in *backend)
{
	int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	int fd;
	struct side *a, *b;
	if (client < 0)
		return;
	/* On loopback this does not wait. */
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)backend, sizeof *backend) < 0) {
		close(client);
		close(fd);
		return;
	}
	a = add(client);
	b = add(fd);
	a->other = b;
	b->other = a;
}

static void readable(struct side *side)
{
	struct side *other = side->other;
	ssize_t size, sent;
	if (other->unsent_size) {
		/* It is not to be read now: the kernel tells of its end. */
		end(side);
		return;
	}
	size = recv(side->fd, buffer, sizeof buffer, MSG_DONTWAIT);
	if (size < 0 && errno == EAGAIN)
		return;
	if (size <= 0) {
		end(side);
		return;
	}
	sent = send(other->fd, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN) {
		end(side);
		return;
	}
	if (sent < 0)
		sent = 0;
	if (sent < size) {
		other->unsent_size = size - sent;
		other->unsent = malloc(other->unsent_size);
		memcpy(other->unsent, buffer + sent, other->unsent_size);
		await(side);
		await(other);
	}
}

static void writable(struct side *side)
{
	ssize_t sent = send(side->fd, side->unsent, side->unsent_size, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0) {
		if (errno != EAGAIN)
			end(side);
		return;
	}
	side->unsent_size -= sent;
	memmove(side->unsent, side->unsent + sent, side->unsent_size);
	if (!side->unsent_size) {
		free(side->unsent);
		side->unsent = NULL;
		await(side);
		await(side->other);
	}
}

int main(int count, char **arguments)
{
	struct sockaddr_in here, backend;
	struct epoll_event events[EVENTS], accepting = {.events = EPOLLIN};
	struct rlimit files;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
	if (count != 3) {
		fputs("usage: relay PORT BACKEND_PORT\n", stderr);
		return 2;
	}
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	here = loopback(arguments[1]);
	backend = loopback(arguments[2]);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1024) < 0)
		fail("listen");
	epoll = epoll_create1(0);
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &accepting);
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);
		if (ready < 0 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < ready; i++) {
			struct side *side = events[i].data.ptr;
			if (!side) {
				accept_one(listener, &backend);
				continue;
			}
			if (side->fd >= 0 && events[i].events & EPOLLOUT)
				writable(side);
			if (side->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
				readable(side);
		}
		while (dead) {
			struct side *next = dead->next_dead;
			free(dead);
			dead = next;
		}
	}
}

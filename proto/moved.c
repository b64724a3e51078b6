/* Asks the kernel. By itself: <linux/tcp.h> has more of tcp_info than <netinet/tcp.h>, and the two
 * do not go together. */
#include "proto/moved.h"

#include <linux/tcp.h>
#include <sys/socket.h>

enum { PROTOCOL_TCP = 6 }; /* IPPROTO_TCP is in a header that declares tcp_info as well */

struct proto_moved proto_fd_moved(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (fd < 0 || getsockopt(fd, PROTOCOL_TCP, TCP_INFO, &info, &len) != 0)
        return (struct proto_moved){0};
    return (struct proto_moved){info.tcpi_bytes_received, info.tcpi_bytes_acked};
}

bool proto_moves(uint64_t *mark, uint64_t bytes)
{
    if (bytes >= *mark && bytes - *mark < PROTO_MOVES_BYTES)
        return false;
    bool moves = bytes > *mark; /* fewer: another connection */
    *mark = bytes;
    return moves;
}

/* Work in items, taken by whichever thread is free: other programs may hold up any of them. */

#include <stdatomic.h>

#include "packed_linear.h"

struct job {
    item_function *item;
    void *context;
    int64_t items;
    atomic_int_fast64_t next;
};

static void work(void *argument)
{
    struct job *job = argument;
    for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->items;)
        job->item(job->context, i);
}

void share(item_function *item, void *context, int64_t items, int threads,
           team_function *team)
{
    struct job job = {item, context, items, 0};
    if (threads > 1 && items > 1)
        team(work, &job, (unsigned)threads, 0);
    else
        work(&job);
}

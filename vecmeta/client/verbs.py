"""Verbs that are written once, as generators, and run blocking or awaited, as their owner is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from vecmeta.client.link import Link, Steps

P = ParamSpec("P")
T = TypeVar("T")


class Speaker:
    """What owns verbs: it has a link, and is `Blocking` or `Awaiting`, which say how `_http` is used."""

    def __init__(self, link: Link, http: Any) -> None:
        self._link, self._http = link, http


class Blocking(Speaker):
    """Its verbs return when they are done."""

    _http: httpx.Client

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                answer: httpx.Response | None = None
                try:
                    if isinstance(step, float):
                        time.sleep(step)
                    else:
                        answer = self._http.send(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result


class Awaiting(Speaker):
    """Its verbs are awaited."""

    _http: httpx.AsyncClient

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                answer: httpx.Response | None = None
                try:
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                    else:
                        answer = await self._http.send(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result


class Verb(Generic[P, T]):
    """A method made of a generator method: ``owner.verb(…)`` returns its result, or, on an Awaiting owner, is awaited for it."""

    def __init__(self, function: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, owner: Blocking | Awaiting | None, kind: type) -> Callable[..., Any]:
        function = self._function
        if owner is None:  # so that help() and inspect see a method

            @wraps(function)
            def unbound(owner: Blocking | Awaiting, *args: P.args, **kwargs: P.kwargs) -> Any:
                return self.__get__(owner, type(owner))(*args, **kwargs)

            return unbound
        bound = function.__get__(owner)
        if isinstance(owner, Blocking):

            @wraps(bound)
            def said(*args: P.args, **kwargs: P.kwargs) -> T:
                return owner._run(function(owner, *args, **kwargs))

            return said

        @wraps(bound)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> T:
            return await owner._run(function(owner, *args, **kwargs))

        return awaited


class Later(Generic[T]):
    """A value that is asked for when it is awaited, and not before."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, None, T]:
        return self._run().__await__()


class Fact(Generic[T]):
    """A property made of a generator method: ``owner.fact``, or, on an Awaiting owner, ``await owner.fact``."""

    def __init__(self, function: Callable[[Any], Steps[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Fact[T]: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> T: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type) -> Awaitable[T]: ...
    def __get__(self, owner: Blocking | Awaiting | None, kind: type) -> Fact[T] | T | Awaitable[T]:
        if owner is None:
            return self
        if isinstance(owner, Blocking):
            return owner._run(self._function(owner))
        return Later(lambda: owner._run(self._function(owner)))


def verb(function: Callable[Concatenate[Any, P], Steps[T]]) -> Verb[P, T]:
    """Make a generator method a verb."""
    return Verb(function)


def fact(function: Callable[[Any], Steps[T]]) -> Fact[T]:
    """Make a generator method a property that is asked for."""
    return Fact(function)

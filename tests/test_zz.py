from tests.test_index import *
import itertools
from vecmeta.index.milvus.index import MilvusIndex
N=itertools.count()
@pytest.fixture(params=["lite","real"])
def make(request):
    link=request.getfixturevalue(f"{request.param}_link")
    made=[]
    def f():
        ix=MilvusIndex(link,f"t_{next(N)}",DIM); ix.create(); ix.open(); made.append(ix); return ix
    yield f
    for m in made:
        m._closed=False; m.drop()
